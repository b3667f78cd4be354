"""What has been measured so far, on disk after every figure: a run that is cut loses none."""

import json
from pathlib import Path
from typing import Any


class Report:
    """`gpu.json` and `gpu.md` in a folder."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._facts = facts
        self._sections: dict[str, list[dict[str, Any]]] = {}
        for name, value in facts.items():
            print(f"{name}: {value}", flush=True)
        self._write()

    def add(self, section: str, **figures: Any) -> None:
        """One row of a section's table, printed too."""
        self._sections.setdefault(section, []).append(figures)
        said = ", ".join(f"{name} {_shown(value)}" for name, value in figures.items())
        print(f"{section}: {said}", flush=True)
        self._write()

    def _write(self) -> None:
        report = {"facts": self._facts, "sections": self._sections}
        (self._folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        (self._folder / "gpu.md").write_text(self._markdown())

    def _markdown(self) -> str:
        lines = ["# Measured on one device", ""]
        lines += [f"- {name}: {value}" for name, value in self._facts.items()]
        for section, rows in self._sections.items():
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines += ["", f"## {section}", "", _line(names), _line(["---"] * len(names))]
            lines += [_line([_shown(row.get(name, "")) for name in names]) for row in rows]
        return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(value: Any) -> str:
    """Four digits of a number."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")
