"""Whatever is wrong with a setting is said in our words: its name, its value, what is allowed."""

import re
from pathlib import Path

import pytest

from vlserve import settings
from vlserve.settings import Settings, WrongSettings

# Of a validation library, and of Python.
FOREIGN = re.compile(r"[Ii]nput|[Vv]alue error|valid |pydantic|unable|Error|should")
WRONG = ("", "nonsense", "-1", "0.5", "9" * 20)
BOUNDS = ("ge", "gt", "le")


def refusals() -> list[tuple[str, str, str]]:
    """Of each setting and each wrong value that it does not take: name, value and what is said."""
    found = []
    for room, name, _ in settings.names():
        for value in WRONG:
            try:
                settings.read({room: {name: value}})
            except WrongSettings as error:
                found.append((f"{room}.{name}", value, str(error)))
    return found


def bounds(path: str) -> list[str]:
    """What a setting is held to, as an error writes it."""
    room, name = path.split(".")
    field = type(Settings.model_fields[room].default).model_fields[name]
    held = (getattr(rule, bound, None) for rule in field.metadata for bound in BOUNDS)
    return [f" {bound:.12g}, not " for bound in held if bound is not None]


def test_a_wrong_value_is_told_with_what_is_allowed() -> None:
    found = refusals()
    # All but the names, paths and hosts, which are any text.
    assert len({path for path, _, _ in found}) > 20
    for path, value, said in found:
        assert said.startswith(path), said
        assert said.endswith(" (flag)"), said
        assert value in said, said
        assert not FOREIGN.search(said), said
        is_number = re.fullmatch(r"-?[0-9]+", value)
        if is_number and " at " in said:
            assert any(bound in said for bound in bounds(path)), said


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (
            "[engine]\nkimd = 1",
            "engine.kimd: there is no such setting; close to it: engine.kind (file)",
        ),
        (
            "engine = 1",
            "engine holds settings: set each by its own name, such as engine.kind (file)",
        ),
        ("[http]\nhost = 1", "http.host must be a text, not 1 (file)"),
        (
            "[limits]\nmax_bodies_mib = 8",
            "limits: max_bodies_mib must be at least max_message_mib, 64, not 8 (file)",
        ),
        ("[engine\n", "vlserve.toml is not TOML, at line 1, column 8"),
        ("[engine]\nkind = 'echo", "vlserve.toml is not TOML, at end of document"),
    ],
)
def test_a_wrong_file_is_told_by_what_is_wrong_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str, said: str
) -> None:
    (tmp_path / "vlserve.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongSettings) as caught:
        settings.read({})
    assert str(caught.value) == said


def test_a_variable_of_no_setting_names_the_one_close_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLSERVE_ENGINE__KIMD", "echo")
    with pytest.raises(WrongSettings, match="close to it: VLSERVE_ENGINE__KIND"):
        settings.read({})
    monkeypatch.delenv("VLSERVE_ENGINE__KIMD")
    monkeypatch.setenv("VLSERVE_ENGINE", "{echo")
    with pytest.raises(WrongSettings, match="VLSERVE_ENGINE holds settings: "):
        settings.read({})
