"""Every process of ours is started, ended and reaped in one place."""

import json
import os
import re
from pathlib import Path

import pytest

from vlserve.processes import Process

SOURCE = Path(__file__).parents[1] / "src" / "vlserve"
END_S = 30.0


@pytest.fixture(autouse=True)
def from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process finds the tests as this one does."""
    monkeypatch.setenv("PYTHONPATH", str(SOURCE.parents[1]))


def facts_of(process: Process) -> dict[str, object]:
    process.socket.setblocking(True)
    with process.socket.makefile("rb") as lines:
        facts: dict[str, object] = json.loads(lines.readline())
    return facts


def test_a_process_inherits_its_socket_and_stderr_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    read, write = os.pipe()
    for fd in (read, write):
        os.set_inheritable(fd, True)  # what somebody else's library leaves open
    process = Process("tests.spoken_to")
    facts = facts_of(process)
    process.socket.close()
    died_of = process.reap(END_S)
    for fd in (read, write):
        os.close(fd)
    assert facts["files"] == [0, 1, 2, facts["socket"]]
    assert facts["stdin"] == "/dev/null"
    assert facts["session"]
    assert facts["deaf"] == [True, True]
    assert died_of == "exit status 0", "it ends when the front lets go of the socket"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "printed\n")


def test_what_a_process_died_of_is_said() -> None:
    process = Process("tests.spoken_to")
    assert facts_of(process)
    assert process.reap(0) is None
    process.kill()
    assert process.reap(END_S) == "SIGKILL"
    assert process.reap(0) == "SIGKILL"
    process.socket.close()


def test_no_other_room_starts_one() -> None:
    starts = re.compile(
        r"\bsubprocess\b|create_subprocess|multiprocessing|\bos\.(spawn|posix_spawn)"
    )
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if starts.search(path.read_text())
    }
    assert found == {"processes.py"}
