"""Files in memory, without a path, which the front and the processes that decode hold together."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
_PIECE_BYTES: Final = 2**20


def create(name: str) -> int:
    """The descriptor of a new one, which its last holder's end frees."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


@contextmanager
def file(name: str) -> Iterator[int]:
    """One that is held here for as long as the context lasts."""
    fd = create(name)
    try:
        yield fd
    finally:
        os.close(fd)


def seal(fd: int) -> None:
    """Nobody can change it from now on. Raises OSError where somebody has it mapped to write."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)


async def write_sealed(name: str, data: bytes) -> int:
    """The descriptor of a sealed one that holds `data`. The loop is free in between."""
    fd = create(name)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest[:_PIECE_BYTES]) :]
            await asyncio.sleep(0)
        seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Kept:
    """Descriptors that are wanted once more, by what they stand for: at most `max_num` of them,
    and `max_bytes` together. Beyond that none is kept."""

    def __init__(self, max_num: int, max_bytes: int) -> None:
        self._max_num = max_num
        self._max_bytes = max_bytes
        self._kept: dict[object, int] = {}
        self._num_bytes = 0

    def keep(self, key: object, fd: int) -> None:
        """Keep it, or close it."""
        num_bytes = self._num_bytes + os.fstat(fd).st_size
        if len(self._kept) < self._max_num and num_bytes <= self._max_bytes:
            self._kept[key], self._num_bytes = fd, num_bytes
        else:
            os.close(fd)

    def take(self, key: object) -> int | None:
        """It is the caller's to close from now on. None where none is kept."""
        fd = self._kept.pop(key, None)
        if fd is not None:
            self._num_bytes -= os.fstat(fd).st_size
        return fd

    def clear(self) -> None:
        """Close all."""
        for key in list(self._kept):
            self.drop(key)

    def drop(self, key: object) -> None:
        """Close it, where it is kept."""
        fd = self.take(key)
        if fd is not None:
            os.close(fd)
