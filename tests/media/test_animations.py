"""Ten thousand frames in a small file: a picture is its first, a video some of them, or late."""

import av.logging
import numpy as np
import pytest

from tests.media import animated
from tests.media.watched import Watched, ended_late
from vlserve.media.decoders import Decoders, Encoded
from vlserve.media.wire import Bounds

NUM = 10_000
CANVAS = (1000, 1000)
MAX_PIXELS = 1_000_000
MAX_MIB = 128  # of a process, with all that it has before
ROOMY = Bounds(memory_bytes=100 << 20, clock_s=30.0, processor_s=20)
SHORT = Bounds(memory_bytes=100 << 20, clock_s=1.0, processor_s=1)
LATE_S = 1.0  # for who asked to be told, with other tests beside it


@pytest.mark.parametrize("kind", animated.MAKERS)
async def test_many_frames(kind: str) -> None:
    av.logging.set_level(av.logging.PANIC)
    small = animated.MAKERS[kind](NUM, (animated.SIDE, animated.SIDE))
    large = animated.MAKERS[kind](NUM, CANVAS)
    room = Decoders(1, ROOMY)
    (first,) = await room.frames(Encoded(small, MAX_PIXELS))
    watched = Watched(room)
    frames = await room.frames(Encoded(small, MAX_PIXELS, max_frames=8))
    assert len(frames) == 8
    assert all(np.array_equal(frame, first) for frame in frames)
    begin_s = watched.processor_s
    (canvas,) = await room.frames(Encoded(large, MAX_PIXELS))
    first_s = watched.processor_s - begin_s
    assert canvas.shape == (*CANVAS, 3)
    peak_mib = watched.peak_mib
    room.close()
    said, taken_s, is_killed = await ended_late(Encoded(large, MAX_PIXELS, max_frames=8), SHORT)
    print(
        f"animations, {kind} of {NUM} frames, {len(large) >> 10} KiB: tried 4, held 4; the"
        f" first after {first_s * 1e3:.0f} ms of a processor, memory {peak_mib:.0f} MiB at most; as"
        f" a video told after {taken_s:.2f} s that it {said}"
    )
    assert peak_mib <= MAX_MIB
    assert (said.partition(":")[0], is_killed) == ("takes too long to decode", True)
    assert taken_s < SHORT.clock_s + LATE_S


async def test_where_time_has_no_bound_an_animation_takes_all_it_wants() -> None:
    """The control: a tenth of the frames, of which the first would do."""
    data = animated.webp(NUM // 10, CANVAS)
    room = Decoders(1, ROOMY)
    await room.frames(Encoded(data, MAX_PIXELS))
    watched = Watched(room)
    begin_s = watched.processor_s
    assert len(await room.frames(Encoded(data, MAX_PIXELS, max_frames=8))) == 8
    taken_s = watched.processor_s - begin_s
    room.close()
    print(f"animations, control: {taken_s:.1f} s of a processor for {NUM // 10} frames")
    assert taken_s * 10 > SHORT.processor_s
