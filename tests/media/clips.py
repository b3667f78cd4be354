"""Videos whose frames say their numbers, made by PyAV."""

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
SIZE = (64, 48)
ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")
BITS = 8  # a frame's number, each bit a black or white column


def frame(number: int, size: tuple[int, int] = SIZE) -> Pixels:
    """uint8[height, width, 3] that says `number`, also after it was coded."""
    width, height = size
    bits = [(number >> bit & 1) * 255 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8), -(-width // BITS))[:width]
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)))


def number(pixels: Pixels) -> int:
    """What `frame` was given."""
    width = pixels.shape[1]
    step = -(-width // BITS)
    middles = pixels[pixels.shape[0] // 2, step // 2 :: step, 0][:BITS]
    return sum(int(value > 127) << bit for bit, value in enumerate(middles))


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """SVT-AV1 makes the process that opens it a real-time one where it may, and so whatever that
    process starts later, which then lets nobody else run."""
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def video(
    num_frames: int = 30,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    size: tuple[int, int] = SIZE,
    rate: int = 10,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    **stream_fields: Any,
) -> bytes:
    """A video file. `times` are the frames' times in 1/`rate` s, one after the other by default."""
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115  what is shifted is opened by its name
    target = av.open(file.name, "w", format=container, options=options or {})
    with file, usual_scheduling(), target as out:
        stream: Any = out.add_stream(codec, rate)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, rate)
        for name, value in stream_fields.items():
            setattr(stream.codec_context, name, value)
        for i in range(num_frames):
            made = av.VideoFrame.from_ndarray(frame(i, size), format="rgb24").reformat(
                format=pix_fmt
            )
            made.pts = times[i] if times else i
            made.time_base = Fraction(1, rate)
            out.mux(stream.encode(made))
        out.mux(stream.encode())
        out.close()
        return Path(file.name).read_bytes()


def animation(kind: str, num_frames: int = 30, size: tuple[int, int] = SIZE) -> bytes:
    """A GIF, PNG, WEBP or AVIF whose frames say their numbers."""
    frames = [Image.fromarray(frame(i, size)) for i in range(num_frames)]
    file = io.BytesIO()
    how: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=100, **how)
    return file.getvalue()


def boxes(data: bytes, kind: bytes) -> Iterator[int]:
    """Where the body of each box of that kind begins."""
    at = data.find(kind)
    while at >= 0:
        yield at + 4
        at = data.find(kind, at + 4)


def patched(data: bytes, kind: bytes, offset: int, value: bytes) -> bytes:
    """`value` at that offset in the body of each box of that kind."""
    changed = bytearray(data)
    for at in boxes(data, kind):
        changed[at + offset : at + offset + len(value)] = value
    return bytes(changed)
