"""The wheel holds what serving needs, and serves."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, and nothing else of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder / "site")
    return folder / "site"


def test_it_holds_every_file_of_the_package(installed: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "src/vlserve"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    kept = {name.removeprefix("src/") for name in listed}
    found = {str(path.relative_to(installed)) for path in installed.glob("vlserve/**/*.*")}
    assert kept - found == set()
    assert (installed / "vlserve/models/embedded/model.safetensors").stat().st_size > 1_000_000


def test_it_serves(installed: Path, tmp_path: Path) -> None:
    ports = ("--grpc.port", "0", "--http.port", "0")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLSERVE_")}
    server = subprocess.Popen(
        [sys.executable, "-m", "vlserve", "serve", *ports],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(installed)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        said = ""
        for line in server.stdout:
            said += line
            if line.startswith("ready"):
                break
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert "a large red circle" in " ".join(said.split())
    assert "embedded is a demonstration model" in said
    assert server.returncode == 0
