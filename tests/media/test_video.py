"""A video gives some of its frames, evenly spaced and right, or is refused; it opens nothing."""

import struct
from typing import Any

import av
import av.logging
import numpy as np
import pytest

from tests.media import clips
from vlserve.media import video
from vlserve.media.decoders import Decoders, Encoded
from vlserve.media.errors import Refused
from vlserve.media.wire import Bounds

MAX_PIXELS = 1_000_000
DAMAGED = "is a video that is damaged or cut short"
NOT_ONE = "is not a video in one of MP4, WebM, AVI, MPEG-TS, GIF, APNG, WebP, AVIF"
KINDS: dict[str, dict[str, Any]] = {
    "mp4 h264": {},
    "mp4 h264 fast start": {"options": {"movflags": "faststart"}},
    "mp4 h264 in fragments": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "mp4 h264 with keys": {"gop_size": 5, "max_b_frames": 2},
    "mp4 h264 key only": {"gop_size": 1},
    "mov h264": {"container": "mov"},
    "mp4 mpeg4": {"codec": "mpeg4"},
    "mp4 hevc": {"codec": "libx265"},
    "mp4 av1": {"codec": "libsvtav1"},
    "webm vp8": {"container": "webm", "codec": "libvpx", "rate": 10},
    "webm vp9": {"container": "webm", "codec": "libvpx-vp9"},
    "matroska h264": {"container": "matroska"},
    "matroska h264 with keys": {"container": "matroska", "gop_size": 7},
    "avi mpeg4": {"container": "avi", "codec": "mpeg4"},
    "avi mjpeg": {"container": "avi", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpegts h264": {"container": "mpegts"},
    "mpegts mpeg2": {"container": "mpegts", "codec": "mpeg2video", "rate": 25},
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    av.logging.set_level(av.logging.PANIC)


def numbers(data: bytes, max_frames: int) -> list[int]:
    return [clips.number(frame) for frame in video.frames(data, max_frames, MAX_PIXELS)]


def refusal(data: bytes, max_frames: int = 8, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(Refused) as refused:
        list(video.frames(data, max_frames, max_pixels))
    return str(refused.value)


def middles(num: int, max_num: int) -> list[int]:
    return [int((i + 0.5) * num / max_num) for i in range(max_num)]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_evenly_spaced_and_right(kind: str) -> None:
    data = clips.video(num_frames=40, **KINDS[kind])
    for max_frames in (1, 3, 8):
        found = numbers(data, max_frames)
        assert len(found) == max_frames
        # Where a frame stands exactly on a middle, a container's clock may be coarser.
        assert np.abs(np.array(found) - middles(40, max_frames)).max() <= 1
        if "mpegts" not in kind and "webm" not in kind and "matroska" not in kind:
            assert found == middles(40, max_frames)
    assert numbers(data, 100) == list(range(40))
    assert video.num_pixels(data, 8, MAX_PIXELS) == 64 * 48 * 8


@pytest.mark.parametrize("kind", clips.ANIMATIONS)
def test_an_animation_is_a_video_when_it_is_sent_as_one(kind: str) -> None:
    data = clips.animation(kind)
    for max_frames in (1, 4, 8):
        assert numbers(data, max_frames) == middles(30, max_frames)
    assert numbers(data, 100) == list(range(30))
    assert numbers(clips.animation(kind, num_frames=1), 8) == [0]
    assert video.num_pixels(data, 8, MAX_PIXELS) == 64 * 48 * 8
    assert (
        refusal(data, max_pixels=64 * 48 - 1)
        == "has frames of 64 x 48 = 3072 pixels; scale it to at most 3071"
    )


def test_times_count_not_numbers() -> None:
    """Nine tenths of the frames in the first second of ten."""
    times = [*range(90), *range(100, 1000, 90)]
    data = clips.video(num_frames=100, rate=100, times=times, container="matroska")
    found = numbers(data, 10)
    assert sum(each < 90 for each in found) == 1
    steady = numbers(clips.video(num_frames=100, rate=100), 10)  # the control: evenly spaced ones
    assert sum(each < 90 for each in steady) == 9


@pytest.mark.parametrize("rate", [1, 24, 240])
def test_the_rate_says_nothing(rate: int) -> None:
    assert numbers(clips.video(num_frames=30, rate=rate), 5) == middles(30, 5)


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    one = 1 << 16
    return struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(
    ("turn", "quarters"),
    [(matrix(0, 1, -1, 0), 3), (matrix(-1, 0, 0, -1), 2), (matrix(0, -1, 1, 0), 1)],
)
def test_frames_are_turned_upright(turn: bytes, quarters: int) -> None:
    """As a telephone writes it: the matrix in the track's header, clockwise."""
    data = clips.video(num_frames=3)
    turned = clips.patched(data, b"tkhd", 40, turn)
    for before, after in zip(
        video.frames(data, 3, MAX_PIXELS), video.frames(turned, 3, MAX_PIXELS), strict=True
    ):
        assert np.array_equal(np.rot90(before, quarters), after)


LIES = {
    "10 hours": ("mp4", b"mvhd", 16, struct.pack(">I", 36_000_000)),
    "0 s": ("mp4", b"mvhd", 16, struct.pack(">I", 0)),
    "10 hours of media": ("mp4", b"mdhd", 16, struct.pack(">I", 2**31)),
    "0 s of media": ("mp4", b"mdhd", 16, struct.pack(">I", 0)),
    "another clock": ("mp4", b"mvhd", 12, struct.pack(">I", 1)),
    "another brand": ("mp4", b"ftyp", 0, b"zzzz"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_header_claims_of_time_changes_nothing(lie: str) -> None:
    data = clips.video(num_frames=30)
    _, kind, offset, value = LIES[lie]
    lying = clips.patched(data, kind, offset, value)
    assert lying != data
    assert numbers(lying, 5) == middles(30, 5)


def test_a_video_of_too_many_hours_is_refused() -> None:
    slow = clips.video(num_frames=3, rate=1, times=[0, 9000, 18_000], container="matroska")
    assert refusal(slow) == "is 5.0 hours long; at most 4 are taken"


def test_more_frames_than_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clips.video(num_frames=200)
    monkeypatch.setattr(video, "MAX_PACKETS", 199)
    assert refusal(data) == "has more than 199 frames: cut it"
    monkeypatch.setattr(video, "MAX_PACKETS", 200)
    assert len(numbers(data, 8)) == 8


def test_large_frames_are_refused_by_the_header() -> None:
    data = clips.video(num_frames=2, size=(640, 480))
    assert (
        refusal(data, max_pixels=307_199)
        == "has frames of 640 x 480 = 307200 pixels; scale it to at most 307199"
    )
    assert len(list(video.frames(data, 8, 640 * 480))) == 2


def test_frames_that_are_larger_than_the_header_says() -> None:
    """The second half of a stream of pictures is of another size."""
    small = clips.video(3, container="avi", codec="mjpeg", pix_fmt="yuvj420p", size=(64, 48))
    large = clips.video(3, container="avi", codec="mjpeg", pix_fmt="yuvj420p", size=(640, 480))
    start = large.index(b"strf")
    header = bytearray(large)
    header[start + 12 : start + 20] = struct.pack("<II", 64, 48)
    begin = header.index(b"avih") + 8 + 32
    header[begin : begin + 8] = struct.pack("<II", 64, 48)
    assert (
        refusal(bytes(header), max_pixels=64 * 48)
        == "has frames of 640 x 480 = 307200 pixels; scale it to at most 3072"
    )
    assert len(list(video.frames(small, 8, 64 * 48))) == 3
    assert len(list(video.frames(bytes(header), 8, MAX_PIXELS))) == 3  # the control


@pytest.mark.parametrize("kind", ["mp4 h264", "webm vp9", "avi mjpeg"])
async def test_through_processes_they_are_the_same(kind: str) -> None:
    data = clips.video(num_frames=20, **KINDS[kind])
    room = Decoders(2, Bounds(memory_bytes=512 << 20, clock_s=10.0, processor_s=5))
    found = await room.frames(Encoded(data, MAX_PIXELS, max_frames=4))
    here = list(video.frames(data, 4, MAX_PIXELS))
    assert all(np.array_equal(*pair) for pair in zip(found, here, strict=True))
    assert await room.num_pixels(Encoded(data, MAX_PIXELS, max_frames=4)) == 64 * 48 * 4
    room.close()
