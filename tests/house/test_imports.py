"""Imports only fall, nothing goes round, each library has one home: see pyproject.toml."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the house in `root`."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": str(root / "src"), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the house that a test may spoil."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.safetensors", "*.pyc")
    )
    return tmp_path


def test_every_import_falls() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("types.py", "import vlserve.service.service", "Imports only fall"),
        (
            "engines/base.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import vlserve.service",
            "Imports only fall",
        ),
        (
            "media/picture.py",
            "def late() -> None:\n    import vlserve.engines.base",
            "Imports only fall",
        ),
        ("engines/base.py", "import vlserve.engines.catalog", "circle"),
        ("service/service.py", "import grpc", "grpc at home"),
        ("doors/grpc/status.py", "import vlserve.doors.kserve.tensors", "circle"),
        ("service/service.py", "import fastapi", "fastapi and starlette at home"),
        ("app.py", "import uvicorn", "uvicorn and h11 at home"),
        ("service/service.py", "import PIL.Image", "Pillow, PyAV and aiohttp at home"),
        ("service/service.py", "import aiohttp", "Pillow, PyAV and aiohttp at home"),
        ("app.py", "import torch", "torch at home"),
        ("app.py", "import msgspec", "msgspec at home"),
        ("service/service.py", "import llguidance", "llguidance at home"),
        ("app.py", "import vlserve.bench.run", "Imports only fall"),
        ("app.py", "import vlserve.describe.run", "Imports only fall"),
        ("cli/main.py", "import matplotlib", "matplotlib at home"),
        ("cli/main.py", "import pyarrow", "pyarrow at home"),
        ("cli/main.py", "import httpx2", "httpx2 at home in the client"),
        ("engines/native/scheduling/pages.py", "import torch", "Scheduling and text"),
        ("engines/native/text/grammar.py", "import torch", "Scheduling and text"),
        (
            "engines/native/scheduling/pages.py",
            "import vlserve.engines.native.cpu.runner",
            "Inside the native engine",
        ),
    ],
)
def test_a_deliberate_breach_is_found(copy: Path, file: str, line: str, contract: str) -> None:
    spoiled = copy / "src" / "vlserve" / file
    spoiled.write_text(f"{spoiled.read_text()}\n{line}\n")
    result = lint_imports(copy)
    assert result.returncode == 1
    broken = [row for row in result.stdout.splitlines() if row.endswith("BROKEN")]
    assert any(contract in row for row in broken), result.stdout
