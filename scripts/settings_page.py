"""Write docs/settings.md from the settings themselves: `python scripts/settings_page.py [FILE]`."""

import sys
from pathlib import Path

from vlserve.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings

Later wins: default, `vlserve.toml` in the working directory, environment, flag. A setting has one
name in all four: `engine.max_running` is `max_running` under `[engine]` in the file,
VLSERVE_ENGINE__MAX_RUNNING in the environment and `--engine.max_running` as a flag. An unknown key
is refused by name. `vlserve settings` shows each value and where it came from.

| setting | default | what it is |
|---|---|---|
"""


def page() -> str:
    """The page, in Markdown."""
    rows = []
    for room, room_field in Settings.model_fields.items():
        for name, field in type(room_field.default).model_fields.items():
            default = f'"{field.default}"' if isinstance(field.default, str) else field.default
            default = "unset" if default is None else default
            rows.append(f"| {room}.{name} | {default} | {field.description} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page())
