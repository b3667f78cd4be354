"""What the pages say is run: each command and each program, in a copy of the house."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
]
# Whole runs of their own: a page may name them, and this test only asks make what it would do.
WHOLE_RUNS = {
    "make setup",
    "make check",
    "make test",
    "make test-all",
    "make test-loaded",
    "make test-long",
    "make test-oldest",
    "make bench",
    "make bench-bodies",
    "make bench-doors",
    "make bench-peers",
    "make clients",
    "make disconnects",
    "make faults",
    "make kills",
    "make load-tools",
    "make broken-pictures",
    "make model",
    "make eval-model",
}
SERVE = "make serve"
READY = "ready"
DOCUMENTED_PORT = "50051"
DOCUMENTED_HTTP_PORT = "8000"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its lines."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page that are meant to be run."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found if language in {"sh", "python"}]


@dataclass
class Copy:
    """A copy of the house in which a page's commands are run, and the server it started."""

    path: Path
    port: int
    http_port: int
    server: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{self.path / '.venv' / 'bin'}:{os.environ['PATH']}",
            "VLSERVE_GRPC__PORT": str(self.port),
            "VLSERVE_HTTP__PORT": str(self.http_port),
        }

    def run(self, *command: str | Path) -> None:
        """Run one command of a page; what it prints is shown when it fails."""
        result = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"

    def serve(self) -> None:
        """Start `make serve` and wait for its ready line."""
        self.server = subprocess.Popen(
            ["make", "serve"],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.server.stdout is not None
        said = []
        for line in self.server.stdout:
            said.append(line)
            if READY in line:
                return
        pytest.fail("the server ended before it was ready:\n" + "".join(said))

    def stop(self) -> None:
        """End the server as a terminal would: the signal goes to make and what it runs."""
        if self.server is None:
            return
        os.killpg(self.server.pid, signal.SIGTERM)
        assert self.server.stdout is not None
        self.server.stdout.close()
        try:
            self.server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
            raise


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in files:
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    # make must find what is installed fresh, whatever the copy's dates are.
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(tmp_path / name, (0, 0))
    house = Copy(tmp_path, free_port(), free_port())
    try:
        yield house
    finally:
        house.stop()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_run(page: Path, copy: Copy) -> None:
    todo = blocks(page)
    if not todo:
        assert "```sh" not in page.read_text()
        return
    started = time.monotonic()
    if not any(SERVE in block.text for block in todo):
        copy.serve()
    for block in todo:
        text = block.text.replace(DOCUMENTED_PORT, str(copy.port))
        text = text.replace(DOCUMENTED_HTTP_PORT, str(copy.http_port))
        if block.language == "python":
            copy.run(copy.path / ".venv" / "bin" / "python", "-c", text)
            continue
        for command in text.replace("\\\n", " ").splitlines():
            verb = command.split("#")[0].strip()
            if verb == SERVE:
                copy.serve()
            elif verb in WHOLE_RUNS:
                copy.run("make", "--dry-run", *verb.split()[1:])
            elif verb:
                copy.run("bash", "-euo", "pipefail", "-c", verb)
    print(f"{page.name}: {len(todo)} blocks in {time.monotonic() - started:.1f} s")


def test_the_first_page_in_a_clean_shell(copy: Copy) -> None:
    """Its commands and programs in their order, in one shell that has no environment on its path
    but by what the page says."""
    own = str(Path(sys.prefix) / "bin")
    path = [folder for folder in os.environ["PATH"].split(":") if folder != own]
    script = []
    for number, block in enumerate(blocks(ROOT / "README.md")):
        text = block.text.replace(DOCUMENTED_PORT, str(copy.port))
        text = text.replace(DOCUMENTED_HTTP_PORT, str(copy.http_port))
        if block.language == "python":
            (copy.path / f"{number}.py").write_text(text)
            script.append(f"python {number}.py")
        else:
            lines = [line for line in text.splitlines() if not line.startswith("make ")]
            script += lines
    assert script[0] == ". .venv/bin/activate"
    copy.serve()
    result = subprocess.run(
        ["bash", "-eu", "-c", "\n".join(script)],
        cwd=copy.path,
        env={**copy.environment, "PATH": ":".join(path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("a large red circle") >= 3, result.stdout  # of each program


def test_a_page_with_a_wrong_command_fails(copy: Copy) -> None:
    with pytest.raises(AssertionError, match="no-such-verb"):
        copy.run("make", "no-such-verb")


def test_names_in_pages_exist() -> None:
    """A back-ticked path is there, and a back-ticked name of ours stands in the source."""
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    source += "".join(path.read_text() for path in (ROOT / "proto").glob("*.proto"))
    source += (ROOT / "Makefile").read_text()
    missing = []
    tried = 0
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for name in re.findall(r"`([^`\n]+)`", prose):
            tried += 1
            if re.fullmatch(r"[\w.-]+/[\w./-]*", name):
                found = (ROOT / name).exists() or (page.parent / name).exists()
            elif match := re.fullmatch(r"make ([a-z-]+)", name):
                found = f"\n{match[1]}:" in (ROOT / "Makefile").read_text()
            elif re.fullmatch(r"([A-Z][a-z]+){2,}(\.\w+)?", name):
                found = all(re.search(rf"\b{part}\b", source) for part in name.split("."))
            else:
                continue
            if not found:
                missing.append(f"{page.name}: {name}")
    assert tried > 20
    assert not missing, missing
