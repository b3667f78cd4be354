"""No message of the source shows a name of the source, a path or a validation library's words."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def listing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("messages", ROOT / "scripts" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "messages", module)
        spec.loader.exec_module(module)
    return module


def test_no_message_shows_what_only_we_know(listing: ModuleType) -> None:
    found = list(listing.messages())
    assert len(found) > 150
    assert not [(each.place, each.faults, each.text) for each in found if each.faults]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("List should have at most 0 items after validation, not 1", "library"),
        ("no model at /srv/models/x", "path"),
        ("GenerationMixin has no method", "class name"),
        ("a ValueError was raised", "class name"),
    ],
)
def test_a_planted_fault_is_found(
    listing: ModuleType, tmp_path: Path, text: str, fault: str
) -> None:
    shutil.copy(ROOT / "src" / "vlserve" / "settings.py", tmp_path)
    (tmp_path / "door.py").write_text(f"def refuse() -> None:\n    raise invalid('n', {text!r})\n")
    [faults] = [each.faults for each in listing.messages(tmp_path) if each.place == "door.py:2"]
    assert any(each.startswith(fault) for each in faults)


def test_a_setting_in_a_message_is_named(listing: ModuleType, tmp_path: Path) -> None:
    shutil.copy(ROOT / "src" / "vlserve" / "settings.py", tmp_path)
    (tmp_path / "door.py").write_text(
        "MOST = 'at most 3 (limits.max_images)'\ninvalid('n', f'is 4, {MOST}')\n"
    )
    [message] = [each for each in listing.messages(tmp_path) if each.place == "door.py:2"]
    assert message.text == "is 4, at most 3 (limits.max_images)"
    assert message.names == ("limits.max_images",)
