"""A video gives some of its frames, evenly spaced and right, or is refused; it opens nothing."""

import io
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import pytest

from tests import pictures
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
ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")


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


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_an_animation_is_a_video_when_it_is_sent_as_one(kind: str) -> None:
    data = clips.animation(kind)
    for max_frames in (1, 4, 8):
        assert numbers(data, max_frames) == middles(30, max_frames)
    assert numbers(data, 100) == list(range(30))
    assert numbers(clips.animation(kind, num_frames=1), 8) == [0]
    assert video.num_pixels(data, 8, MAX_PIXELS) == 64 * 48 * 8
    assert refusal(data, max_pixels=64 * 48 - 1) == "has frames of more than 3071 pixels"


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


def boxes(data: bytes, kind: bytes) -> Iterator[int]:
    """Where the body of each box of that kind begins."""
    at = data.find(kind)
    while at >= 0:
        yield at + 4
        at = data.find(kind, at + 4)


def patched(data: bytes, kind: bytes, offset: int, value: bytes) -> bytes:
    changed = bytearray(data)
    for at in boxes(data, kind):
        changed[at + offset : at + offset + len(value)] = value
    return bytes(changed)


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
    turned = patched(data, b"tkhd", 40, turn)
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
    lying = patched(data, kind, offset, value)
    assert lying != data
    assert numbers(lying, 5) == middles(30, 5)


def test_a_video_of_too_many_hours_is_refused() -> None:
    slow = clips.video(num_frames=3, rate=1, times=[0, 9000, 18_000], container="matroska")
    assert refusal(slow) == "is longer than 4 hours"


def test_more_frames_than_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clips.video(num_frames=200)
    monkeypatch.setattr(video, "MAX_PACKETS", 199)
    assert refusal(data) == "has more than 199 frames"
    monkeypatch.setattr(video, "MAX_PACKETS", 200)
    assert len(numbers(data, 8)) == 8


def test_large_frames_are_refused_by_the_header() -> None:
    data = clips.video(num_frames=2, size=(640, 480))
    assert refusal(data, max_pixels=307_199) == "has frames of more than 307199 pixels"
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
    assert refusal(bytes(header), max_pixels=64 * 48) == "has frames of more than 3072 pixels"
    assert len(list(video.frames(small, 8, 64 * 48))) == 3
    assert len(list(video.frames(bytes(header), 8, MAX_PIXELS))) == 3  # the control


def audio() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream: Any = out.add_stream("aac", 8000)
        stream.layout = "mono"
        made = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        made.sample_rate = 8000
        out.mux(stream.encode(made))
        out.mux(stream.encode())
    return file.getvalue()


def hostile() -> dict[str, tuple[bytes, str]]:
    whole = clips.video(num_frames=30)
    fast = clips.video(num_frames=30, options={"movflags": "faststart"})
    webm = clips.video(num_frames=30, container="webm", codec="libvpx")
    files = {
        "audio": (audio(), "holds no video"),
        "nothing of mp4": (whole[:8], DAMAGED),
        "moov of zeros": (patched(whole, b"moov", 0, bytes(200)), ""),
        "moov without track": (patched(whole, b"moov", 108 + 4, b"xxxx"), ""),
        "no sample table": (whole.replace(b"stbl", b"xxxx"), ""),
        "no chunk offsets": (whole.replace(b"stco", b"xxxx"), DAMAGED),
        "chunks outside": (patched(whole, b"stco", 8, b"\x7f\xff\xff\xff"), DAMAGED),
        "samples of 2 GB": (patched(whole, b"stsz", 4, b"\x7f\xff\xff\xff"), DAMAGED),
        "samples without number": (patched(whole, b"stsz", 8, b"\xff\xff\xff\xff"), DAMAGED),
        "codec of nobody": (whole.replace(b"avc1", b"zzzz"), ""),
        "box of 0": (b"\0\0\0\0ftypisom" + whole[12:], ""),
        "matroska of nothing": (b"\x1a\x45\xdf\xa3" + bytes(1000), DAMAGED),
        "matroska of noise": (webm[:40] + random.Random(1).randbytes(5000), DAMAGED),
        "avi of nothing": (b"RIFF\xff\xff\xff\xffAVI LIST" + bytes(1000), DAMAGED),
        "mpegts of nothing": ((b"\x47" + bytes(187)) * 50, ""),
        "raw video": (clips.video(3, container="avi", codec="rawvideo"), ""),
        "huffyuv": (clips.video(3, container="avi", codec="huffyuv", pix_fmt="yuv422p"), ""),
    }
    lists = {
        "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "hls http": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n",
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "concat without mark": b"file '/etc/passwd'\n",
        "dash": b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>',
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "subtitles": b"1\n00:00:00,000 --> 00:00:01,000\nx\n",
        "avisynth": b'AVISource("/etc/passwd")',
        "asx": b'<asx><entry><ref href="file:///etc/passwd"/></entry></asx>',
        "rtsp": b"RTSPtext\nrtsp://127.0.0.1/x",
        "image sequence": b"/etc/%d.png",
        "flv": b"FLV\x01\x05\0\0\0\x09" + bytes(100),
        "ogg": b"OggS" + bytes(100),
        "asf": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(100),
        "mpegps": b"\0\0\x01\xba" + bytes(100),
        "gzip": b"\x1f\x8b" + bytes(100),
        "jpeg": pictures.kinds()["jpeg"],
        "bmp": pictures.bitmaps()["bmp rgb"][0],
        "text": b"no video at all",
        "one byte": b"G",
    }
    files |= {name: (data, NOT_ONE) for name, data in lists.items()}
    for part in (10, 20, 30, 40, 50, 60, 70, 80, 90):
        files |= {
            f"mp4 cut at {part}%": (whole[: len(whole) * part // 100], ""),
            f"fast start cut at {part}%": (fast[: len(fast) * part // 100], ""),
        }
    for kind in ANIMATIONS:
        moving = clips.animation(kind)
        for part in (20, 60, 90):
            files[f"{kind} cut at {part}%"] = (moving[: len(moving) * part // 100], DAMAGED)
    return files


async def test_hostile_ones_are_refused() -> None:
    files = hostile()
    room = Decoders(2, Bounds(memory_bytes=512 << 20, clock_s=5.0, processor_s=2))
    await room.frames(Encoded(clips.video(num_frames=3), MAX_PIXELS, max_frames=8))
    slowest_s = 0.0
    wrong = []
    for name, (data, text) in files.items():
        begin_s = time.monotonic()
        try:
            await room.frames(Encoded(data, MAX_PIXELS, max_frames=8))
            wrong.append(f"{name} was taken")
        except Refused as refused:
            if text and str(refused) != text:
                wrong.append(f"{name}: {refused}")
        slowest_s = max(slowest_s, time.monotonic() - begin_s)
    room.close()
    num_refused = len(files) - len(wrong)
    print(f"hostile videos tried {len(files)}, refused {num_refused}, slowest {slowest_s:.1f} s")
    assert not wrong
    assert len(files) >= 60
    assert slowest_s < 3  # with other tests beside it


def test_where_packets_are_not_counted_a_cut_video_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: FFmpeg itself is content with what is there."""
    whole = clips.video(num_frames=30, gop_size=5, options={"movflags": "faststart"})
    cut = whole[: len(whole) * 9 // 10]
    assert refusal(cut) == DAMAGED

    def lenient(container: Any, stream: Any) -> tuple[list[int], list[int]]:
        times = sorted(p.pts for p in container.demux(stream) if p.size and not p.is_corrupt)
        return times, times[:1]

    monkeypatch.setattr(video, "_packets", lenient)
    assert len(numbers(cut, 1)) == 1


def test_a_video_that_names_other_files_opens_none(tmp_path: Path) -> None:
    """A QuickTime reference to a file that is there, which FFmpeg follows where it is let."""
    secret = tmp_path / "secret.mov"
    secret.write_bytes(clips.video(num_frames=3, container="mov"))
    data = clips.video(num_frames=3, container="mov")
    at = data.index(b"dref") + 4
    assert data[at + 12 : at + 16] in (b"url ", b"alis")
    outside = patched(data, b"dref", 19, b"\0")  # not in this file
    assert numbers(outside, 3) == [0, 1, 2] or refusal(outside)
    for flags in range(2):
        changed = patched(data, b"dref", 12, (b"url ", b"alis")[flags])
        assert len(changed) == len(data)
        list(video.frames(changed, 3, MAX_PIXELS))


@pytest.mark.parametrize("kind", ["mp4 h264", "webm vp9", "avi mjpeg"])
async def test_through_processes_they_are_the_same(kind: str) -> None:
    data = clips.video(num_frames=20, **KINDS[kind])
    room = Decoders(2, Bounds(memory_bytes=512 << 20, clock_s=10.0, processor_s=5))
    found = await room.frames(Encoded(data, MAX_PIXELS, max_frames=4))
    here = list(video.frames(data, 4, MAX_PIXELS))
    assert all(np.array_equal(*pair) for pair in zip(found, here, strict=True))
    assert await room.num_pixels(Encoded(data, MAX_PIXELS, max_frames=4)) == 64 * 48 * 4
    room.close()


async def test_a_long_video_goes_over_its_time() -> None:
    data = clips.video(num_frames=200, size=(1280, 720), gop_size=200)
    for clock_s, is_late in ((0.02, True), (20.0, False)):
        room = Decoders(1, Bounds(memory_bytes=1 << 30, clock_s=clock_s, processor_s=20))
        what = Encoded(data, MAX_PIXELS, max_frames=8)
        if is_late:
            with pytest.raises(Refused, match="takes too long to decode"):
                await room.frames(what)
        else:
            assert len(await room.frames(what)) == 8
        room.close()
