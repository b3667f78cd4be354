"""Animations of many frames in few bytes: a canvas of any size, each frame a corner of it."""

import io
import os
import struct
import zlib
from fractions import Fraction
from typing import Any

import av
from PIL import Image

from tests import pictures
from tests.media.clips import usual_scheduling
from tests.media.hostile import chunk

SIDE = 8  # of a frame, in pixels
Size = tuple[int, int]


def gif(num: int, size: Size) -> bytes:
    """The first frame and those after it are one corner, which is all that is said of it."""
    small = pictures.encoded(Image.new("P", (SIDE, SIDE), 0), "GIF")
    at = small.index(b"," + struct.pack("<HHHH", 0, 0, SIDE, SIDE))
    return small[:6] + struct.pack("<HH", *size) + small[10:at] + small[at:-1] * num + b";"


def png(num: int, size: Size) -> bytes:
    """An APNG, whose first frame is as large as the canvas."""

    def frame(number: int, width: int, height: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 1, 10, 0, 0))

    def rows(width: int, height: int) -> bytes:
        return zlib.compress(bytes((1 + 3 * width) * height), 9)

    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)),
        chunk(b"acTL", struct.pack(">II", num, 0)),
        frame(0, *size),
        chunk(b"IDAT", rows(*size)),
    ]
    corner = rows(SIDE, SIDE)
    for i in range(1, num):
        parts.append(frame(2 * i - 1, SIDE, SIDE))
        parts.append(chunk(b"fdAT", struct.pack(">I", 2 * i) + corner))
    return b"".join([*parts, chunk(b"IEND", b"")])


def webp(num: int, size: Size) -> bytes:
    """Lossless frames."""

    def number(value: int) -> bytes:
        return value.to_bytes(3, "little")

    def part(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body

    small = pictures.encoded(Image.new("RGB", (SIDE, SIDE)), "WEBP", lossless=True)[12:]
    place = number(0) * 2 + number(SIDE - 1) * 2 + number(100) + b"\0"
    parts = [
        part(b"VP8X", struct.pack("<I", 2) + number(size[0] - 1) + number(size[1] - 1)),
        part(b"ANIM", bytes(6)),
        part(b"ANMF", place + small) * num,
    ]
    body = b"WEBP" + b"".join(parts)
    return part(b"RIFF", body)


def avif(num: int, size: Size) -> bytes:
    """Each frame is as large as the canvas, and stands alone."""
    os.environ["SVT_LOG"] = "-1"  # the encoder, which encodes nothing here, is not to be heard
    still = pictures.encoded(Image.new("RGB", size), "AVIF", speed=10, max_threads=1)
    frame = still[still.index(b"mdat") + 4 :]
    file = io.BytesIO()
    with usual_scheduling(), av.open(file, "w", format="avif") as out:
        stream: Any = out.add_stream("libsvtav1", 10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.open()
        for i in range(num):
            packet = av.Packet(frame)
            packet.stream, packet.time_base = stream, Fraction(1, 10)
            packet.pts = packet.dts = i
            packet.duration, packet.is_keyframe = 1, True
            out.mux(packet)
    return file.getvalue()


MAKERS = {"gif": gif, "png": png, "webp": webp, "avif": avif}
