"""What is said to a process that decodes, and what it says: one datagram each, in MessagePack.

With a `Task` go three descriptors: a socket for the answer, a file with the encoded bytes, and a
file for the pixels. No datagram runs code, and only the types below can come out of one.
"""

from typing import Any, Final

import msgspec

MAX_BYTES: Final = 64 * 1024  # of a datagram


class Bounds(msgspec.Struct, frozen=True, array_like=True):
    """What the process may use: memory beyond what it starts with, in bytes, and time, in s of
    the clock and of a processor."""

    memory_bytes: int
    clock_s: float
    processor_s: int


class Task(msgspec.Struct, frozen=True, array_like=True):
    """Decode, or where `only_size` read the header. A video gives at most `max_frames` frames,
    a picture (`max_frames` 0) itself, each of at most `max_pixels` pixels."""

    max_frames: int
    max_pixels: int
    only_size: bool
    bounds: Bounds


class Size(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The pixels of all frames together, by the header."""

    num_pixels: int


class Decoded(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Each frame's height and width. The pixels, uint8[height, width, 3], stand in the file one
    after the other."""

    shapes: list[tuple[int, int]]


class Refusal(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What came is not taken; why."""

    reason: str


class Died(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The process ended without an answer: of which signal, 0 for none, and whether it was ended
    because its time was over."""

    signal: int
    is_late: bool


Answer = Size | Decoded | Refusal | Died


def encoded(message: Task | Answer) -> bytes:
    """The datagram for `message`."""
    return msgspec.msgpack.encode(message)


def task(datagram: bytes) -> Task:
    """Raises msgspec.MsgspecError for what is none."""
    return msgspec.msgpack.decode(datagram, type=Task)


def answer(datagram: bytes) -> Answer:
    """Raises ValueError for what is none."""
    kinds: Any = Answer
    found: Answer = msgspec.msgpack.decode(datagram, type=kinds)
    return found
