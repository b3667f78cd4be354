"""The lines that docs/grpc.md gives for other languages, where their tools are installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "grpc.md"
LINES = re.findall(r"^```console\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE)
# Tools of a line, and a file that it must have made, with a word that must stand in it.
EXPECTED = {
    "--go_out": (
        ("protoc", "protoc-gen-go", "protoc-gen-go-grpc"),
        ("vision_grpc.pb.go", "VisionServiceClient"),
    ),
    "--java_out": (
        ("protoc", "grpc_java_plugin"),
        ("vlserve/vision/VisionServiceGrpc.java", "VisionServiceBlockingStub"),
    ),
    "buf generate": (
        ("buf", "protoc-gen-go", "protoc-gen-go-grpc"),
        ("vlserve/vision/vision_grpc.pb.go", "VisionServiceClient"),
    ),
}


def test_the_page_has_a_line_for_each() -> None:
    for mark in EXPECTED:
        assert sum(mark in line for line in LINES) == 1, mark
    (rust,) = re.findall(r"^```rust\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE)
    for path in re.findall(r'"(.*?)"', rust):
        assert (ROOT / path).exists()


@pytest.mark.parametrize("mark", EXPECTED)
def test_the_line_makes_stubs(mark: str, tmp_path: Path) -> None:
    tools, (name, word) = EXPECTED[mark]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    (line,) = (line for line in LINES if mark in line)
    command = [found(word.replace("OUT", str(tmp_path))) for word in line.split(" ")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert word in (tmp_path / name).read_text()


def found(argument: str) -> str:
    """protoc wants a plugin's whole path where it is named by --plugin."""
    before, _, tool = argument.rpartition("=")
    return f"{before}={shutil.which(tool)}" if argument.startswith("--plugin=") else argument
