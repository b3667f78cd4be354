"""Every line of examples/README.md, where its tools are installed, against a live server."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest

from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.grpc.vision import SERVICE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "examples" / "README.md").read_text()
PICTURE = "src/vlserve/models/embedded/example.png"
QUESTION = "How many shapes are there?"
LINES = {
    heading: block.splitlines()
    for heading, block in re.findall(r"^## (\w+)\n.*?^```console\n(.*?)^```$", PAGE, re.M | re.S)
}
# Programs on the path, files, and packages of Python that the lines under a heading need.
NEEDED = {
    "Python": ("make",),
    "Frameworks": ("import langchain_openai", "import litellm"),
    "curl": ("curl", "jq", "file"),
    "Node": ("node", f"{ROOT}/examples/node/node_modules/openai"),
    "Go": (
        "make", "go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc",
        "/usr/share/gocode/src/google.golang.org/grpc",
    ),
    "Java": (
        "make", "javac", "protoc", "grpc_java_plugin", "/usr/share/java/grpc-netty.jar",
        "/usr/share/java/perfmark-api.jar", "/usr/share/java/geronimo-annotation-1.3-spec.jar",
    ),
}  # fmt: skip
INSTALL = "make -C examples node"  # fetches packages, which .ci/run has done


@dataclass(frozen=True)
class Served:
    """A live server, a copy of the examples, and what it answers to the page's question."""

    folder: Path
    grpc_port: int
    http_port: int
    answer: str

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """One line of the page, with this server's ports."""
        line = line.replace("50051", str(self.grpc_port)).replace("8000", str(self.http_port))
        python = Path(sys.executable).parent
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env=os.environ | {"PATH": f"{python}:{os.environ['PATH']}", "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def copied(folder: Path) -> Path:
    """What the lines read, so that whatever they make is not left in the house."""
    modules = ROOT / "examples" / "node" / "node_modules"
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=lambda *_: {"node_modules"})
    shutil.copytree(ROOT / "proto", folder / "proto")
    (folder / PICTURE).parent.mkdir(parents=True)
    shutil.copy(ROOT / PICTURE, folder / PICTURE)
    (folder / "examples" / "node" / "node_modules").symlink_to(modules)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = copied(tmp_path_factory.mktemp("examples"))
    grpc_port, http_port = free_port(), free_port()
    ports = {"VLSERVE_GRPC__PORT": str(grpc_port), "VLSERVE_HTTP__PORT": str(http_port)}
    with subprocess.Popen(
        [sys.executable, "-m", "vlserve", "serve"],
        env=os.environ | ports,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        said = []
        for line in server.stdout:
            said.append(line)
            if "ready" in line:
                break
        else:
            pytest.fail("the server ended before it was ready:\n" + "".join(said))
        try:
            with grpc.insecure_channel(f"localhost:{grpc_port}") as channel:
                chat = channel.unary_unary(
                    f"/{SERVICE}/Chat",
                    pb.VisionRequest.SerializeToString,
                    pb.VisionResponse.FromString,
                )
                picture = (ROOT / PICTURE).read_bytes()
                answer = chat(pb.VisionRequest(image=picture, prompt=QUESTION)).text.strip()
            yield Served(folder, grpc_port, http_port, answer)
        finally:
            server.terminate()
            server.stdout.close()


def test_the_page_has_lines_for_each() -> None:
    assert LINES.keys() == NEEDED.keys()
    programs = re.findall(r"^\| \[`([\w/.]+)`\]", PAGE, re.M)
    files = subprocess.run(
        ["git", "ls-files", "examples"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    kinds = (".py", ".sh", ".mjs", ".go", ".java")
    assert sorted(f"examples/{name}" for name in programs) == sorted(
        name for name in files if name.endswith(kinds)
    )


def is_there(needed: str) -> bool:
    if "/" in needed:
        return Path(needed).exists()
    if needed.startswith("import "):
        return find_spec(needed.removeprefix("import ")) is not None
    return shutil.which(needed) is not None


@pytest.mark.parametrize("heading", NEEDED)
def test_the_lines_print_the_answer(
    heading: str, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [needed for needed in NEEDED[heading] if not is_there(needed)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    asked = 0
    for line in LINES[heading]:
        ended = served.run(line.replace("make", "make --dry-run") if line == INSTALL else line)
        assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"
        if PICTURE not in line:
            continue
        answers = [printed.strip() for printed in ended.stdout.splitlines()]
        assert answers == [served.answer] * line.count("--image"), line
        refused = served.run(line.replace(PICTURE, "proto/vision.proto"))
        assert refused.returncode != 0
        assert "image" in refused.stdout + refused.stderr, refused
        if heading != "Frameworks":  # which say it in their own way
            nobody = served.run(re.sub(r"localhost:\d+", "localhost:1", line))
            assert nobody.returncode != 0
            assert "Traceback" not in nobody.stderr, nobody
        asked += 1
    with capsys.disabled():
        print(f"{heading}: tried {asked}, held {asked}")
    assert asked
