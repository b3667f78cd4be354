"""The memory of a run: a line for each item that is done, on the disk before it counts.

A file of JSON lines that is only ever appended to; the first says what was asked. A kill can tear
the last line and no other, and a torn line is cut off when the file is opened again. The newest
line of an item counts. What comes while the disk syncs is written and synced together: a disk
takes as long for one line as for many.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from vlserve.describe.errors import DescribeError

VERSION: Final = 1
SUFFIX: Final = ".journal"


@dataclass(frozen=True, slots=True)
class Done:
    """An item that needs no more work. `stamp` tells its content from another of the same `key`;
    `row` is what the output says of it; `error` is why it failed, None where it did not."""

    key: str
    stamp: str
    error: str | None
    row: dict[str, Any]


class _Entry(NamedTuple):
    offset: int
    length: int
    stamp: str
    has_failed: bool


@dataclass(slots=True)
class _Waiting:
    done: Done
    is_written: bool = False


class Journal:
    """Open, and this process's alone, from `opened` to the end of its context."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._end = 0
        self._entries: dict[str, _Entry] = {}
        self._waiting: list[_Waiting] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")

    @classmethod
    def opened(cls, output: Path, asked: Mapping[str, Any], *, overwrite: bool) -> Self:
        """The journal of an output, new where there is none.

        `asked` is whatever makes an answer another one, in values of JSON. Raises DescribeError
        where another process has the journal, where its lines are damaged, and unless `overwrite`
        where it says another `asked` or the output is there without a journal. Nothing has been
        changed then.
        """
        path = output.with_name(output.name + SUFFIX)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        journal = cls(file)
        try:
            journal._begin(output, path, asked, overwrite=overwrite)
        except BaseException:
            journal.close()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Returns when what was given to `append` is written."""
        self._writer.shutdown()
        os.close(self._file)

    def has_failed(self, key: str, stamp: str) -> bool | None:
        """How an item of this content ended, None where it is not done."""
        entry = self._entries.get(key)
        return entry.has_failed if entry and entry.stamp == stamp else None

    async def append(self, done: Done) -> None:
        """Returns when it is on the disk. It gets there even if nobody waits for it any more.

        Raises OSError where it cannot be written: the lines before it are as they were then.
        """
        waiting = _Waiting(done)
        self._waiting.append(waiting)
        await asyncio.get_running_loop().run_in_executor(self._writer, self._append, waiting)

    def done(self, keys: Iterable[str]) -> Iterator[Done]:
        """What is kept of each of the items that are done, in the order of `keys`."""
        for key in keys:
            if (entry := self._entries.get(key)) is not None:
                yield Done(**json.loads(os.pread(self._file, entry.length, entry.offset)))

    def _append(self, waiting: _Waiting) -> None:
        """In the writer's thread: all that waits by now, unless `waiting` was among the last."""
        if waiting.is_written:
            return
        together = self._waiting[:]
        lines = [_line(asdict(each.done)) for each in together]
        offset = self._end
        self._write(b"".join(lines))
        del self._waiting[: len(together)]
        for each, line in zip(together, lines, strict=True):
            stamp, has_failed = each.done.stamp, each.done.error is not None
            self._entries[each.done.key] = _Entry(offset, len(line), stamp, has_failed)
            offset += len(line)
            each.is_written = True

    def _write(self, lines: bytes) -> None:
        # Always at the known end: what a write that failed left behind it is written over.
        num_written = 0
        while num_written < len(lines):
            num_written += os.pwrite(self._file, lines[num_written:], self._end + num_written)
        os.fsync(self._file)
        self._end += num_written

    def _begin(
        self, output: Path, path: Path, asked: Mapping[str, Any], *, overwrite: bool
    ) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DescribeError(f"another run is writing {path}") from None
        head = {"journal": VERSION, "asked": dict(asked)}
        begun = self._read(path)
        if begun is None and output.exists() and not overwrite:
            raise DescribeError(f"{output} exists, without its journal: --overwrite replaces it")
        if begun is not None and begun != head:
            if not overwrite:
                raise DescribeError(f"{output} has {_difference(begun, head)}: --overwrite")
            begun = None
        if begun is None:
            self._end = 0
            self._entries = {}
        os.ftruncate(self._file, self._end)
        if begun is None:
            self._write(_line(head))
            sync_folder(path.parent)

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Take in all whole lines. The first one, None where there is none yet."""
        begun = None
        with os.fdopen(os.dup(self._file), "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break  # torn
                try:
                    said = json.loads(line)
                    if number == 1:
                        begun = {"journal": said["journal"], "asked": dict(said["asked"])}
                    else:
                        done = Done(**said)
                        entry = _Entry(self._end, len(line), done.stamp, done.error is not None)
                        self._entries[done.key] = entry
                except (ValueError, KeyError, TypeError):
                    raise DescribeError(f"{path}: line {number} is damaged") from None
                self._end += len(line)
        return begun


def _line(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said).encode() + b"\n"


def _difference(begun: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """Which parameters differ, and how."""
    if begun["journal"] != head["journal"]:
        return f"a journal of version {begun['journal']}"
    was, now = begun["asked"], head["asked"]
    names = [name for name in (was | now) if was.get(name) != now.get(name)]
    return "; ".join(f"{name} {was.get(name)!r}, not {now.get(name)!r}" for name in names)


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
