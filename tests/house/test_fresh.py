"""What is generated or pinned is what the sources say."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def test_generated_proto_is_fresh(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "proto.py", tmp_path], check=True)
    doors = ROOT / "src" / "vlserve" / "doors"
    kept = {path.name: path.read_text() for path in doors.glob("*/pb/*_pb2.py*")}
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert len(made) == 2 * len(list((ROOT / "proto").glob("*.proto")))
    assert kept.keys() == made.keys()
    for name, text in made.items():
        assert kept[name] == text, f"{name} is stale: make proto"


def test_settings_page_is_fresh(tmp_path: Path) -> None:
    page = tmp_path / "settings.md"
    subprocess.run([sys.executable, ROOT / "scripts" / "settings_page.py", page], check=True)
    text = (ROOT / "docs" / "settings.md").read_text()
    assert text == page.read_text(), "stale: python scripts/settings_page.py"


def test_models_page_is_fresh(tmp_path: Path) -> None:
    page = tmp_path / "models.md"
    subprocess.run([sys.executable, ROOT / "scripts" / "models_page.py", page], check=True)
    text = (ROOT / "docs" / "models.md").read_text()
    assert text == page.read_text(), "stale: python scripts/models_page.py"


def pinned(name: str) -> dict[str, str]:
    """The version of each package that a file of constraints says."""
    lines = (ROOT / name).read_text().splitlines()
    assert not [line for line in lines if "://" in line or " @ " in line or "--" in line]
    return {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in lines if not line.startswith("#"))
    }


def stated() -> list[Requirement]:
    """Every range of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in sum(extras.values(), project["dependencies"])]
    assert len(wanted) > 20
    return wanted


def test_the_oldest_pin_is_the_floor() -> None:
    """But for torch, of which no CPU build as old as its floor is at hand, and its Triton."""
    pins = pinned("constraints-oldest.txt")
    for requirement in stated():
        (floor,) = (each.version for each in requirement.specifier if each.operator == ">=")
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} does not admit {pin}"
        if requirement.name not in {"torch", "triton"}:
            assert Version(pin) == Version(floor), f"{requirement}: tried with {pin}"


def test_every_dependency_has_a_pin_within_its_range() -> None:
    pins = pinned("constraints.txt")
    for requirement in stated():
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} does not admit {pin}"


def test_every_import_of_the_package_is_a_stated_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    # What a room may want beyond that, by the extra that brings it.
    optional = {
        room: {
            canonicalize_name(Requirement(text).name)
            for text in project["optional-dependencies"][extra]
        }
        for room, extra in (("bench", "bench"), ("describe", "parquet"))
    }
    # torch brings Triton where it can use it.
    provided = {"google": "protobuf", "PIL": "pillow", "triton": "torch"}
    for path in (ROOT / "src").rglob("*.py"):
        for name in top_level_imports(path):
            if name in sys.stdlib_module_names or name in {"vlserve", "grpc"}:
                continue
            if name == "triton":  # comes with torch where torch has CUDA; missing is allowed
                continue
            library = canonicalize_name(provided.get(name, name))
            is_optional = library in optional.get(path.parent.name, ())
            assert (
                library in stated
                or is_optional
                or any(item.startswith("grpcio") and name.startswith("grpc_") for item in stated)
            ), f"{path}: {name}"


def top_level_imports(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names
