"""Encoded bytes as a file, whether they are in memory or mapped."""

import io
import mmap
from typing import BinaryIO

Data = bytes | mmap.mmap


def reader(data: Data) -> BinaryIO:
    """A file of `data` without a descriptor. Only what is read of a mapping is copied."""
    return io.BytesIO(data) if isinstance(data, bytes) else io.BufferedReader(_Mapped(data))


class _Mapped(io.RawIOBase):
    """A mapping, which itself is no whole file: its `seek` says nothing before Python 3.13."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
