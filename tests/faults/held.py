"""Where a request is held for as long as a test wants, in whichever process it is just then, and
what each process notes of it.

The text or the picture of a request says where: `hold:<phase>:<number>;`. The number is the
trial's own. Whoever comes to the gate makes a folder and waits for another one: a process that
decodes can make a folder, but open no file.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

# In the environment, of the processes too: the folder of gates and notes.
VARIABLE = "HELD_FOLDER"
LONGEST_S = 20.0  # nobody is held for longer, whatever has become of the test
_POLL_S = 0.0005
_MARK = re.compile(rb"hold:(\w+):(\d+);")


class Phase(StrEnum):
    """Where a request is when its caller leaves."""

    UPLOAD = "upload"
    FETCH = "fetch"
    DECODE = "decode"
    QUEUED = "queued"
    ENCODE = "encode"
    PREFILL = "prefill"
    STEP = "step"
    FLUSH = "flush"


@dataclass(frozen=True, slots=True)
class Hold:
    """One request that is to be held, and where."""

    phase: Phase
    number: int

    @property
    def mark(self) -> str:
        """What says it in a text or in a file."""
        return f"hold:{self.phase}:{self.number};"

    def reach(self) -> None:
        """Say that the request is there."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{_folder()}/{self.number}.{os.getpid()}")  # noqa: PTH102  the cheap way

    def wait(self) -> None:
        """Say so, and wait until the gate is open. Blocks."""
        self.reach()
        ends_s = time.monotonic() + LONGEST_S
        while not self.is_open and time.monotonic() < ends_s:
            time.sleep(_POLL_S)

    @property
    def is_open(self) -> bool:
        """Whether it may go on."""
        return os.path.isdir(f"{_folder()}/{self.number}.open")  # noqa: PTH112

    def open(self) -> None:
        """Let it go on."""
        with contextlib.suppress(FileExistsError):
            Path(f"{_folder()}/{self.number}.open").mkdir()

    @property
    def pids(self) -> list[int]:
        """The processes in which it was held."""
        names = (path.suffix[1:] for path in Path(_folder()).glob(f"{self.number}.*"))
        return [int(name) for name in names if name.isdigit()]


def held(*where: str | bytes) -> Hold | None:
    """What the first of these says that has a mark in it."""
    for each in where:
        if found := _MARK.search(each.encode() if isinstance(each, str) else each):
            return Hold(Phase(found[1].decode()), int(found[2]))
    return None


def note(what: str, number: int = 0, **facts: Any) -> None:
    """Write down, for the test, what happens now to the trial of that number."""
    line = json.dumps({"what": what, "number": number, "at": time.monotonic(), **facts}) + "\n"
    file = os.open(f"{_folder()}/notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.close(file)


@dataclass(frozen=True, slots=True)
class Note:
    """What was written down, and when, s of the clock that all processes share."""

    what: str
    number: int
    at: float
    facts: dict[str, Any]


@dataclass(slots=True)
class Notes:
    """All that was noted so far, of every process."""

    all: list[Note] = field(default_factory=list)
    _at: int = 0
    _rest: bytes = b""

    def read(self) -> None:
        """Take in what is new."""
        with Path(_folder(), "notes").open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            facts = json.loads(line)
            what, number, at = (facts.pop(name) for name in ("what", "number", "at"))
            self.all.append(Note(what, number, at, facts))

    def of(self, what: str, number: int = 0) -> list[Note]:
        """Those of one kind, of one trial."""
        self.read()
        return [each for each in self.all if (each.what, each.number) == (what, number)]

    def num_steps(self, begin_s: float, end_s: float) -> int:
        """The engine's steps that began after one moment and until the other."""
        return sum(begin_s < step.at <= end_s for step in self._latest("step", begin_s))

    def forget(self) -> None:
        """Let go of what there is."""
        self.read()
        self.all.clear()

    def _latest(self, what: str, since_s: float) -> Iterator[Note]:
        self.read()
        return (each for each in self.all if each.what == what and each.at >= since_s)


def _folder() -> str:
    return os.environ[VARIABLE]
