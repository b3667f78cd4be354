"""Videos that are made to hurt whoever decodes them: refused within their bounds."""

import io
import random
import struct
import time
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import pytest
from PIL import Image

from tests import pictures
from tests.media import clips
from tests.media.watched import Watched, ended_late
from vlserve.media import decoders, video
from vlserve.media.decoders import Decoders, Encoded
from vlserve.media.errors import Refused
from vlserve.media.wire import Bounds

MAX_PIXELS = 1_000_000
DAMAGED = "is a video that is damaged or cut short"
NOT_ONE = "is not a video in one of MP4, WebM, AVI, MPEG-TS, GIF, APNG, WebP, AVIF"
TOO_LARGE = f"has frames of 8192 x 8192 = 67108864 pixels; scale it to at most {MAX_PIXELS}"
TOO_LONG = "takes too long to decode"
MOST_S = 2.0  # of a processor
LATE_S = 1.0  # for who asked to be told, with other tests beside it


@pytest.fixture(autouse=True)
def quiet() -> None:
    av.logging.set_level(av.logging.PANIC)


def numbers(data: bytes, max_frames: int) -> list[int]:
    return [clips.number(frame) for frame in video.frames(data, max_frames, MAX_PIXELS)]


def refusal(data: bytes, max_frames: int = 8) -> str:
    with pytest.raises(Refused) as refused:
        list(video.frames(data, max_frames, MAX_PIXELS))
    return str(refused.value)


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
        "moov of zeros": (clips.patched(whole, b"moov", 0, bytes(200)), ""),
        "moov without track": (clips.patched(whole, b"moov", 108 + 4, b"xxxx"), ""),
        "no sample table": (whole.replace(b"stbl", b"xxxx"), ""),
        "no chunk offsets": (whole.replace(b"stco", b"xxxx"), DAMAGED),
        "chunks outside": (clips.patched(whole, b"stco", 8, b"\x7f\xff\xff\xff"), DAMAGED),
        "samples of 2 GB": (clips.patched(whole, b"stsz", 4, b"\x7f\xff\xff\xff"), DAMAGED),
        "samples without number": (clips.patched(whole, b"stsz", 8, b"\xff\xff\xff\xff"), DAMAGED),
        "codec of nobody": (whole.replace(b"avc1", b"zzzz"), ""),
        "box of 0": (b"\0\0\0\0ftypisom" + whole[12:], ""),
        "matroska of nothing": (b"\x1a\x45\xdf\xa3" + bytes(1000), DAMAGED),
        "matroska of noise": (webm[:40] + random.Random(1).randbytes(5000), DAMAGED),
        "avi of nothing": (b"RIFF\xff\xff\xff\xffAVI LIST" + bytes(1000), DAMAGED),
        "mpegts of nothing": ((b"\x47" + bytes(187)) * 50, ""),
        "no frames": (clips.video(0), ""),
        "8192 x 8192": (
            clips.video(1, container="avi", codec="mjpeg", pix_fmt="yuvj420p", size=(8192, 8192)),
            TOO_LARGE,
        ),
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
        "100,000 pictures": pictures.encoded(Image.new("L", (1, 1)), "JPEG") * 100_000,
    }
    files |= {name: (data, NOT_ONE) for name, data in lists.items()}
    for part in (10, 20, 30, 40, 50, 60, 70, 80, 90):
        files |= {
            f"mp4 cut at {part}%": (whole[: len(whole) * part // 100], ""),
            f"fast start cut at {part}%": (fast[: len(fast) * part // 100], ""),
        }
    for kind in clips.ANIMATIONS:
        moving = clips.animation(kind)
        for part in (20, 60, 90):
            files[f"{kind} cut at {part}%"] = (moving[: len(moving) * part // 100], DAMAGED)
    return files


async def test_hostile_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "MAX_USES", 1000)  # one process for all
    files = hostile()
    room = Decoders(1, Bounds(memory_bytes=512 << 20, clock_s=20.0, processor_s=2))
    await room.frames(Encoded(clips.video(num_frames=3), MAX_PIXELS, max_frames=8))
    watched = Watched(room)
    watched.forget()
    slowest_s = longest_s = 0.0
    wrong = []
    for name, (data, text) in files.items():
        begin_s, begun_s = watched.processor_s, time.monotonic()
        try:
            await room.frames(Encoded(data, MAX_PIXELS, max_frames=8))
            wrong.append(f"{name} was taken")
        except Refused as refused:
            if str(refused).startswith(TOO_LONG) or (text and str(refused) != text):
                wrong.append(f"{name}: {refused}")
        slowest_s = max(slowest_s, watched.processor_s - begin_s)
        longest_s = max(longest_s, time.monotonic() - begun_s)
    peak_mib = watched.peak_mib
    room.close()
    print(
        f"hostile videos: tried {len(files)}, held {len(files) - len(wrong)}; slowest"
        f" {slowest_s:.2f} s of a processor, {longest_s:.2f} s by the clock, memory"
        f" {peak_mib:.0f} MiB at most"
    )
    assert not wrong
    assert len(files) >= 60
    assert slowest_s <= MOST_S


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


async def test_frames_are_never_more_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    uneven = [*range(90), *range(100, 1000, 90)]
    files = {
        "long": clips.video(num_frames=200),
        "uneven": clips.video(100, rate=100, times=uneven, container="matroska"),
        "1 a second": clips.video(num_frames=30, rate=1),
        "240 a second": clips.video(num_frames=30, rate=240),
        "10 hours by its header": clips.patched(
            clips.video(num_frames=30), b"mvhd", 16, struct.pack(">I", 36_000_000)
        ),
        **{kind: clips.animation(kind) for kind in clips.ANIMATIONS},
    }
    room = Decoders(1, Bounds(memory_bytes=512 << 20, clock_s=20.0, processor_s=10))
    for max_frames in (1, 3, 8):
        for name, data in files.items():
            found = await room.frames(Encoded(data, MAX_PIXELS, max_frames))
            assert len(found) == max_frames, name
    room.close()
    print(f"frames of videos: tried {3 * len(files)}, held {3 * len(files)}")
    # The control: where all are wanted, all come.
    monkeypatch.setattr(video, "_wanted", lambda times, _: times)
    monkeypatch.setattr(video, "_middles", lambda num, _: range(num))
    assert min(len(numbers(data, 1)) for data in files.values()) == 30


def concat(path: Path) -> bytes:
    return f"ffconcat version 1.0\nfile {path}\n".encode()


def aliased(data: bytes, path: Path) -> bytes:
    """A QuickTime file whose frames are in the file at `path`, an alias record says, not here."""
    name = str(path).encode()
    name += bytes(len(name) % 2)
    record = bytes(150) + struct.pack(">HH", 2, len(name)) + name + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    reference = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    at = data.index(b"dref") - 4
    (length,) = struct.unpack_from(">I", data, at)
    changed = bytearray(data[:at] + reference + data[at + length :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):  # which it is in
        begin = data.rindex(kind, 0, at) - 4
        (size,) = struct.unpack_from(">I", data, begin)
        struct.pack_into(">I", changed, begin, size + len(reference) - length)
    frames = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    changed[frames:end] = bytes(end - frames)
    return bytes(changed)


def followed(data: bytes, form: str, options: dict[str, str], **how: Any) -> list[int]:
    """The frames that FFmpeg finds, `options` and `how` in place of ours."""
    try:
        with av.open(io.BytesIO(data), "r", form, options, **how) as container:
            frames = container.decode(container.streams.video[0])
            return [clips.number(frame.to_ndarray(format="rgb24")) for frame in frames]
    except (Refused, av.error.FFmpegError):
        return []


def test_a_video_that_names_another_file_does_not_open_it(tmp_path: Path) -> None:
    """A reference of QuickTime's and a list, to a file that is there."""
    secret = tmp_path / "secret.mov"
    secret.write_bytes(clips.video(num_frames=3, container="mov"))
    outside, listed = aliased(secret.read_bytes(), secret), concat(secret)
    assert refusal(outside) == DAMAGED
    assert refusal(listed) == NOT_ONE
    # Were they followed, the guards behind would hold.
    reference = {"enable_drefs": "1", "use_absolute_path": "1"}
    whitelist = {"protocol_whitelist": "none"}
    assert followed(outside, "mov", reference, io_open=video._open_nothing) == []
    for data, form, options in ((outside, "mov", reference), (listed, "concat", {"safe": "0"})):
        assert followed(data, form, options | whitelist) == []
        # The control: without any they are opened.
        assert followed(data, form, options) == [0, 1, 2]
    print("other files: tried 5, held 5; control: 2 of 2 are opened without the guards")


async def test_a_long_video_goes_over_its_time() -> None:
    """Who asked is told in time, and the process is gone."""
    data = clips.video(num_frames=100, size=(1280, 720), gop_size=100)
    what = Encoded(data, MAX_PIXELS, max_frames=8)
    said, taken_s, is_killed = await ended_late(what, Bounds(1 << 30, clock_s=0.05, processor_s=20))
    assert (said, is_killed) == (f"{TOO_LONG}: more than 0.05 s", True)
    assert taken_s < 0.05 + LATE_S
    room = Decoders(1, Bounds(memory_bytes=1 << 30, clock_s=20.0, processor_s=20))
    assert len(await room.frames(what)) == 8  # the control
    room.close()
