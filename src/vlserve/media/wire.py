"""What is said to a process that decodes, and what it says: one datagram each, in MessagePack.

With `Bounds` goes the socket of a process that is to be made, with a `Task` a file of the encoded
bytes and one for the pixels. No datagram runs code, and only the types below come out of one.
"""

from typing import Any, Final

import msgspec

MAX_BYTES: Final = 64 * 1024  # of a datagram
TOO_MUCH_MEMORY: Final = "takes too much memory to decode"


class Bounds(msgspec.Struct, frozen=True, array_like=True):
    """What a process may use: memory beyond what it starts with, in bytes, and for each task time,
    in s of the clock and of a processor."""

    memory_bytes: int
    clock_s: float
    processor_s: int


class Task(msgspec.Struct, frozen=True, array_like=True):
    """Decode, or where `only_size` read the header. A video gives at most `max_frames` frames,
    a picture (`max_frames` 0) itself, each of at most `max_pixels` pixels."""

    max_frames: int
    max_pixels: int
    only_size: bool


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The process is there: its first word."""


class Size(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The pixels of all frames together, by the header."""

    num_pixels: int


class Decoded(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Each frame's height and width. The pixels, uint8[height, width, 3], stand in the file one
    after the other."""

    shapes: list[tuple[int, int]]


class Refusal(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What came is not taken; why, and which of its bounds it is beyond, if any."""

    reason: str
    bound: str = ""


class Died(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The process has ended, without an answer to what it was asked: of which signal, 0 for
    none."""

    signal: int


Answer = Ready | Size | Decoded | Refusal | Died


def encoded(message: Bounds | Task | Answer) -> bytes:
    """The datagram for `message`."""
    return msgspec.msgpack.encode(message)


def bounds(datagram: bytes) -> Bounds:
    """Raises msgspec.MsgspecError for what is none."""
    return msgspec.msgpack.decode(datagram, type=Bounds)


def task(datagram: bytes) -> Task:
    """Raises msgspec.MsgspecError for what is none."""
    return msgspec.msgpack.decode(datagram, type=Task)


def answer(datagram: bytes) -> Answer:
    """Raises ValueError for what is none."""
    kinds: Any = Answer
    found: Answer = msgspec.msgpack.decode(datagram, type=kinds)
    return found
