"""Files that are made to hurt whoever decodes them, by name: bombs, lies and two things in one."""

import io
import struct
import zipfile
import zlib
from typing import Any

from PIL import Image

from tests import pictures

LARGE = ((1001, 1000), (13_000, 13_000), (65_500, 65_500), (65_535, 65_535), (16_383, 16_383))
EMPTY = ((0, 5), (5, 0))


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(width: int, height: int, *before: bytes, **header: int) -> bytes:
    """A small PNG whose header claims that size, with chunks before its data."""
    fields = {"depth": 8, "colour": 2, "method": 0, "filter": 0, "interlace": 0} | header
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *fields.values()))
    data = chunk(b"IDAT", zlib.compress(bytes(1 << 20), 9))
    return b"\x89PNG\r\n\x1a\n" + ihdr + b"".join(before) + data + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    """A BMP header that claims that size."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info + bytes(100)


def gif(width: int, height: int) -> bytes:
    """A GIF screen and a frame of that size."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"


def jpeg(width: int, height: int) -> bytes:
    """A JPEG frame header that claims that size, in a real file."""
    whole = bytearray(pictures.encoded(Image.new("RGB", (8, 8)), "JPEG"))
    at = whole.index(b"\xff\xc0") + 5
    whole[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(whole)


def webp(width: int, height: int) -> bytes:
    """A WebP canvas of that size around a small frame."""
    small = pictures.encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]
    canvas = b"VP8X" + struct.pack("<II", 10, 0)
    canvas += (width - 1 & 0xFFFFFF).to_bytes(3, "little")
    canvas += (height - 1 & 0xFFFFFF).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(small)) + b"WEBP" + canvas + small


def avif(width: int, height: int) -> bytes:
    """A small AVIF whose header claims that size."""
    whole = bytearray(pictures.encoded(Image.new("RGB", (8, 8)), "AVIF"))
    at = whole.index(b"ispe") + 8
    whole[at : at + 8] = struct.pack(">II", width, height)
    return bytes(whole)


def tiff(width: int, height: int, **tags: int) -> bytes:
    """A TIFF directory that claims that size; a tag is t<number> = value."""
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    entries |= {279: min(width * height, 2**31)} | {int(k[1:]): v for k, v in tags.items()}
    following = entries.pop(0, 0)
    body = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in sorted(entries.items()))
    start = struct.pack("<2sHI", b"II", 42, 8)
    return start + struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


MAKERS: dict[str, Any] = {
    "png": png,
    "bmp": bmp,
    "gif": gif,
    "jpeg": jpeg,
    "webp": webp,
    "tiff": tiff,
    "avif": avif,
}


def refused() -> dict[str, bytes]:
    """What no decoder of ours may take, or even spend memory on."""
    files = {
        f"{kind} {width}x{height}": make(width, height)
        for kind, make in MAKERS.items()
        for width, height in (*LARGE, *EMPTY)
        if not (kind == "webp" and (0 in (width, height) or width > 16_384))
    }
    bomb = zlib.compress(bytes(200 << 20), 9)
    texts = {
        "zTXt": b"a\0\0" + bomb,
        "iTXt": b"a\0\1\0\0\0" + bomb,
        "iCCP": b"a\0\0" + bomb,
    }
    for name, body in texts.items():
        files[f"png {name} bomb"] = png(4, 4, chunk(name.encode(), body))
    small_bomb = zlib.compress(bytes(1 << 20), 9)
    files["png many zTXt"] = png(4, 4, *[chunk(b"zTXt", b"a\0\0" + small_bomb)] * 70)
    for name, value in {"depth": 3, "colour": 1}.items():
        files[f"png {name} {value}"] = png(4, 4, **{name: value})
    whole = pictures.encoded(Image.fromarray(pictures.scene()), "PNG")
    files |= {
        "png without data": whole[:33] + chunk(b"IEND", b""),
        "png wrong sum": whole[:29] + b"\0\0\0\0" + whole[33:],
        "png palette without one": png(4, 4, colour=3),
        "tiff directory in itself": tiff(4, 4, t330=8)[:8] + struct.pack("<HI", 0, 8),
        "tiff without directory": b"II*\0\0\0\0\0",
        "tiff directory outside": b"II*\0\xff\xff\xff\x7f",
        "tiff 65535 samples": tiff(900, 900, t277=65535),
        "tiff 64 bits": tiff(4, 4, t258=64),
        "tiff data outside": tiff(4, 4, t273=2**31),
        "tiff odd compression": tiff(4, 4, t259=34712),
        "tiff jpeg without one": tiff(4, 4, t259=7),
        "tiff lzw of nothing": tiff(900, 900, t259=5),
        "bmp lying offset": bmp(9, 9)[:10] + b"\xff\xff\xff\x7f" + bmp(9, 9)[14:],
        "jpeg only start": b"\xff\xd8",
        "jpeg endless marker": b"\xff\xd8" + b"\xff" * 100_000,
        "jpeg empty segments": b"\xff\xd8" + b"\xff\xe1\0\2" * 10_000,
    }
    still = pictures.encoded(Image.fromarray(pictures.scene()), "AVIF")
    for box in ("meta", "pitm", "iloc", "iinf", "av01", "iprp", "ipco", "ispe", "av1C", "ipma"):
        files[f"avif without {box}"] = still.replace(box.encode(), b"xxxx")
    files |= {f"foreign {name}": data for name, data in foreign().items()}
    fronts = {
        "html": b"<html><script>x</script>",
        "pdf": b"%PDF-1.7\n",
        "zip": b"PK\3\4",
        "nul": b"\0",
    }
    for kind, data in _whole().items():
        for name, front in fronts.items():
            files[f"{name} before {kind}"] = front + data
    return files


def foreign() -> dict[str, bytes]:
    """Other formats, and what is none."""
    small = Image.fromarray(pictures.scene())
    made = {
        kind: pictures.encoded(small, kind)
        for kind in ("ICO", "PPM", "TGA", "PCX", "SGI", "PDF", "EPS", "DDS")
    }
    made["JPEG2000"] = pictures.encoded(small, "JPEG2000")
    made["XBM"] = pictures.encoded(small.convert("1"), "XBM")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", b"x")
    return made | {
        "zip": archive.getvalue(),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "svg reference": b'<svg><image href="file:///etc/passwd"/></svg>',
        "html": b"<!doctype html><img src=x onerror=alert(1)>",
        "fits": b"SIMPLE  =                    T" + b" " * 2850,
        "psd": b"8BPS\0\1" + bytes(30),
        "heic": b"\0\0\0\x18ftypheic" + bytes(40),
        "mp4": b"\0\0\0\x18ftypisom" + bytes(40),
        "gzip": b"\x1f\x8b\x08" + bytes(30),
        "elf": b"\x7fELF" + bytes(60),
        "pe": b"MZ" + bytes(60),
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
        "emf": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(40),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(40),
        "grib": b"GRIB" + bytes(40),
        "icns": b"icns" + bytes(40),
        "imagemagick": b"push graphic-context\nfill 'url(https://x/y)'\npop graphic-context",
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "base64": b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ",
        "data url": b"data:image/png;base64,iVBORw0KGgo=",
        "json": b'{"image": "x"}',
        "spaces": b" " * 1000,
        "nothing but zeros": bytes(1000),
        "nothing but ones": b"\xff" * 1000,
        "riff of nothing": b"RIFF\xff\xff\xff\xffWEBP" + bytes(100),
    }


def _whole() -> dict[str, bytes]:
    small = Image.fromarray(pictures.scene())
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    return {kind.lower(): pictures.encoded(small, kind) for kind in kinds}


def harmless() -> dict[str, tuple[bytes, bytes]]:
    """What is a whole picture with something more: the file, and the one whose pixels it has."""
    ends = {
        "html": b"<script>alert(1)</script>",
        "zip": foreign()["zip"],
        "php": b"<?php system($_GET[0]); ?>",
        "pdf": b"%PDF-1.7\n%%EOF",
        "a megabyte": bytes(1 << 20),
    }
    return {
        f"{kind} before {name}": (data + end, data)
        for kind, data in _whole().items()
        for name, end in ends.items()
    }
