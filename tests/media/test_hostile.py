"""Bombs, lies and two things in one; pictures cut and with flipped bits: refused, or exact."""

import random
import re
from collections.abc import Awaitable

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from tests import pictures
from tests.media import broken, hostile
from tests.media.watched import Watched
from vlserve.media import decoders, picture
from vlserve.media.decoders import Decoders, Encoded, Pixels
from vlserve.media.errors import Refused
from vlserve.media.wire import TOO_MUCH_MEMORY, Bounds

# What Pillow says about odd files is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MAX_PIXELS = 1_000_000
TAKEN = "a picture in one of PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF"
MAX_MIB = 128  # of a process, with all that it has before
SMALL = Bounds(memory_bytes=100 << 20, clock_s=5.0, processor_s=2)
OURS = re.compile(
    rf"is (HEIC|JPEG 2000|PDF|SVG): must be {TAKEN}"
    rf"|is not {TAKEN}"
    r"|is a picture that is damaged or cut short"
    r"|has samples of mode \w+: send whole numbers of 1, 8 or 16 bits"
    r"|has \d+ x \d+ pixels: it holds nothing to see"
    rf"|has \d+ x \d+ = \d+ pixels; scale it to at most {MAX_PIXELS}"
    rf"|has more than {MAX_PIXELS} pixels; scale it down"
)


async def outcome(coming: Awaitable[list[Pixels]]) -> str | Pixels:
    try:
        (found,) = await coming
    except Refused as refused:
        return str(refused)
    return found


async def peak_mib(room: Decoders, data: bytes, max_pixels: int = MAX_PIXELS) -> float:
    """The most memory that the process of a room has, in all, over one picture."""
    watched = Watched(room)
    watched.forget()
    await outcome(room.frames(Encoded(data, max_pixels)))
    return watched.peak_mib


async def test_bombs_and_lies_are_refused_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is all that the process has, by the kernel, and time that of a processor."""
    monkeypatch.setattr(decoders, "MAX_USES", 1000)  # one process for all
    files = hostile.refused()
    seconds, mib = {}, {}
    wrong = []
    room = Decoders(1, SMALL)
    await outcome(room.frames(Encoded(pictures.kinds()["jpeg"], MAX_PIXELS)))
    watched = Watched(room)
    base_mib = await peak_mib(room, pictures.kinds()["jpeg"])
    for name, data in files.items():
        begin_s = watched.processor_s
        watched.forget()
        found = await outcome(room.frames(Encoded(data, MAX_PIXELS)))
        seconds[name], mib[name] = watched.processor_s - begin_s, watched.peak_mib
        if not isinstance(found, str) or not OURS.fullmatch(found):
            wrong.append(f"{name}: {found}")
    room.close()
    assert not wrong
    slowest = sorted(seconds, key=lambda name: seconds[name])
    p99_ms = seconds[slowest[-len(files) // 100]] * 1e3
    largest = max(mib, key=lambda name: mib[name])
    print(
        f"bombs: tried {len(files)}, held {len(files)}; memory {mib[largest]:.0f} MiB at most"
        f" ({largest}), {base_mib:.0f} with a small picture; p99 {p99_ms:.0f} ms of a processor,"
        f" {seconds[slowest[-1]] * 1e3:.0f} ms at most ({slowest[-1]})"
    )
    assert len(files) >= 120
    assert mib[largest] <= MAX_MIB
    assert p99_ms <= 100


async def test_without_its_bounds_a_bomb_takes_what_it_wants() -> None:
    """The control: the same small file without a bound of pixels, and then without one of memory.
    It takes what it is given, and is told by name what it was refused for."""
    data = pictures.encoded(Image.new("RGB", (6000, 6000)), "PNG", compress_level=1)
    bounded, free = Decoders(1, SMALL), Decoders(1, Bounds(4 << 30, clock_s=20.0, processor_s=10))
    for room in (bounded, free):
        await outcome(room.frames(Encoded(pictures.kinds()["jpeg"], MAX_PIXELS)))
    found = await outcome(bounded.frames(Encoded(data, MAX_PIXELS)))
    assert found == f"has 6000 x 6000 = 36000000 pixels; scale it to at most {MAX_PIXELS}"
    kept_mib = await peak_mib(bounded, data)
    free_mib = await peak_mib(free, data, 2**40)
    found = await outcome(bounded.frames(Encoded(data, 2**40)))
    assert found == f"{TOO_MUCH_MEMORY}: more than 100 MiB"
    bounded.close()
    free.close()
    print(f"bombs, control: {free_mib:.0f} MiB without bounds, {kept_mib:.0f} with them")
    assert kept_mib <= MAX_MIB < 2 * MAX_MIB <= free_mib


async def test_an_avif_that_is_larger_than_it_says_is_bounded_by_memory() -> None:
    """Its decoder makes the frame as large as the frame itself says, and then smaller."""
    large = pictures.encoded(Image.new("RGB", (3000, 3000)), "AVIF", speed=10)
    at = large.index(b"ispe") + 8
    data = large[:at] + bytes.fromhex("00000008 00000008") + large[at + 8 :]
    room = Decoders(1, SMALL)
    found = await outcome(room.frames(Encoded(data, MAX_PIXELS)))
    assert not isinstance(found, str)
    assert found.shape == (8, 8, 3)
    assert await peak_mib(room, data) <= MAX_MIB
    room.close()
    narrow = Decoders(1, replace(SMALL, memory_bytes=12 << 20))
    found = await outcome(narrow.frames(Encoded(data, MAX_PIXELS)))
    narrow.close()
    assert isinstance(found, str)
    assert OURS.fullmatch(found)


async def test_what_stands_behind_a_picture_changes_nothing() -> None:
    files = hostile.harmless()
    room = Decoders(2, SMALL)
    for name, (data, same_as) in files.items():
        found = await outcome(room.frames(Encoded(data, MAX_PIXELS)))
        assert not isinstance(found, str), f"{name}: {found}"
        assert np.array_equal(found, picture.decode(same_as, MAX_PIXELS)), name
    room.close()
    print(f"two things in one: tried {len(files)}, held {len(files)}")


async def test_broken_pictures_end_the_same_way_through_processes() -> None:
    tried, equal = await broken.through_processes(broken.sample(300, random.Random(1)))
    print(f"cut and flipped through processes tried {tried}, equal {equal}")
    assert tried == equal


def test_flipped_bits_are_refused_or_decoded() -> None:
    rng = random.Random(2)
    counts = [
        broken.try_all(whole, broken.flips(whole, 200, rng), may_differ=True)
        for whole in broken.encodings().values()
    ]
    tried, held = sum(count.tried for count in counts), sum(count.held for count in counts)
    print(
        f"flipped tried {tried}, held {held}, {sum(count.other for count in counts)} other pixels"
    )
    assert tried == held == 2400


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif"])
def test_where_cut_pictures_are_taken_it_is_found_out(kind: str) -> None:
    """The control of the test at every offset: Pillow's own leniency fails it."""
    whole = broken.encodings()[kind]
    assert broken.try_all(whole, broken.cuts(whole), may_differ=False).other == 0
    assert broken.taken_where_lenient(whole) > 0
