"""Pictures cut at every offset, and with single bits flipped: `python -m tests.media.broken`.

None may be answered as whole unless its pixels are those of the whole, none may raise what is not
a refusal, and none may take long. A part of them goes through the processes that decode.
"""

import argparse
import asyncio
import json
import platform
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageFile

from tests import pictures
from vlserve.media import picture
from vlserve.media.decoders import Decoders, Encoded
from vlserve.media.errors import Refused
from vlserve.media.wire import Bounds

RESULTS = Path(__file__).parents[2] / "bench" / "results"
MAX_PIXELS = 1_000_000
LONGEST_S = 0.25
SIZE = (64, 48)


@dataclass
class Count:
    """What was tried and what came of it. `held` are those that ended as they must."""

    tried: int = 0
    held: int = 0
    refused: int = 0
    same: int = 0
    other: int = 0
    slowest_ms: float = 0.0
    wrong: list[str] = field(default_factory=list)


def encodings() -> dict[str, bytes]:
    """Twelve encodings of one picture; the last is not taken, whole or cut."""
    scene = Image.fromarray(pictures.scene(SIZE))
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "jpeg": ("JPEG", {"quality": 85}),
        "jpeg progressive": ("JPEG", {"quality": 85, "progressive": True}),
        "png": ("PNG", {}),
        "webp lossy": ("WEBP", {"quality": 80}),
        "webp lossless": ("WEBP", {"lossless": True}),
        "gif": ("GIF", {}),
        "tiff": ("TIFF", {}),
        "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
        "tiff deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
        "bmp": ("BMP", {}),
        "avif": ("AVIF", {}),
        "jpeg 2000": ("JPEG2000", {}),
    }
    return {name: pictures.encoded(scene, kind, **how) for name, (kind, how) in made.items()}


def cuts(whole: bytes) -> Iterator[bytes]:
    """Cut at every offset."""
    return (whole[:length] for length in range(1, len(whole)))


def flips(whole: bytes, num: int, rng: random.Random) -> Iterator[bytes]:
    """`num` times one bit of it flipped."""
    for _ in range(num):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


def try_all(whole: bytes, broken: Iterator[bytes], *, may_differ: bool) -> Count:
    """Decode each here. A flipped bit may change pixels (`may_differ`), a cut may not."""
    count = Count()
    try:
        expected = picture.decode(whole, MAX_PIXELS)
    except Refused:  # of a format that is not taken
        expected = None
    for data in broken:
        begin_s = time.perf_counter()
        count.tried += 1
        holds = True
        try:
            found = picture.decode(data, MAX_PIXELS)
        except Refused as refused:
            count.refused += 1
            holds = "0x" not in str(refused) and "/" not in str(refused)
        except Exception as error:
            holds = False
            count.wrong.append(type(error).__name__)
        else:
            is_same = expected is not None and np.array_equal(found, expected)
            count.same += is_same
            count.other += not is_same
            holds = is_same or may_differ
        taken_s = time.perf_counter() - begin_s
        count.slowest_ms = max(count.slowest_ms, taken_s * 1e3)
        count.held += holds and taken_s <= LONGEST_S
    return count


def taken_where_lenient(whole: bytes) -> int:
    """The control: how many of its cuts are answered with other pixels where Pillow is told to
    make do with what is there."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return try_all(whole, cuts(whole), may_differ=False).other
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


async def through_processes(files: list[bytes], num: int = 2) -> tuple[int, int]:
    """How many were tried, and how many had the same outcome as here."""
    room = Decoders(num, Bounds(256 << 20, 10.0, 5))

    async def outcome(data: bytes) -> str:
        try:
            (found,) = await room.frames(Encoded(data, MAX_PIXELS))
        except Refused as refused:
            return str(refused)
        return str(hash(found.tobytes()))

    def outcome_here(data: bytes) -> str:
        try:
            return str(hash(picture.decode(data, MAX_PIXELS).tobytes()))
        except Refused as refused:
            return str(refused)

    try:
        found = await asyncio.gather(*map(outcome, files))
    finally:
        room.close()
    return len(files), sum(map(str.__eq__, found, map(outcome_here, files)))


def sample(num: int, rng: random.Random) -> list[bytes]:
    """`num` files, half of them cut and half with a bit flipped."""
    wholes = list(encodings().values())
    chosen = [rng.choice(wholes) for _ in range(num)]
    return [
        whole[: rng.randrange(1, len(whole))] if i % 2 else next(flips(whole, 1, rng))
        for i, whole in enumerate(chosen)
    ]


def main() -> None:
    """The whole run, and its table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2000, help="of them through processes")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    rng = random.Random(options.seed)
    table: dict[str, dict[str, object]] = {}
    begin_s = time.perf_counter()
    for name, whole in encodings().items():
        counts = {
            "cut": try_all(whole, cuts(whole), may_differ=False),
            "flipped": try_all(whole, flips(whole, len(whole) - 1, rng), may_differ=True),
        }
        table[name] = {kind: asdict(count) for kind, count in counts.items()}
        for kind, count in counts.items():
            print(f"{name}, {kind}: tried {count.tried}, held {count.held}, same {count.same}")
    decoded_s = time.perf_counter() - begin_s
    control = {name: taken_where_lenient(whole) for name, whole in encodings().items()}
    tried, equal = asyncio.run(through_processes(sample(options.processes, rng)))
    everything = [count for kinds in table.values() for count in kinds.values()]
    totals = {
        key: sum(count[key] for count in everything)  # type: ignore[index]
        for key in ("tried", "held", "refused", "same", "other")
    }
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    result = {
        "seed": options.seed,
        "commit": commit,
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "seconds": round(decoded_s, 1),
        "totals": totals,
        "through processes": {"tried": tried, "equal": equal},
        "control: cuts taken by a lenient decoder": control,
        "encodings": table,
    }
    path = RESULTS / f"broken-pictures-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{totals}, through processes tried {tried}, equal {equal}, {decoded_s:.1f} s")
    print(f"control: {sum(control.values())} cuts taken by a lenient decoder: {control}")
    sys.exit(totals["tried"] != totals["held"] or tried != equal)


if __name__ == "__main__":
    main()
