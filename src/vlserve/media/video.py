"""An encoded video -> some of its frames, by PyAV; of an animation by Pillow. Runs where
`picture.py` does.

Decisions, each tested:
- the container is told by its first bytes, never probed for, and is given to FFmpeg as bytes: no
  playlist, no list of files, and nothing that it names is opened
- containers and codecs are of a short list
- how long a video is and where its frames lie is told by the packets, not by what a header claims
- frames are spaced evenly in time, in the middles of as many parts; a video that has no more
  frames than asked for gives all; of an animation they are spaced evenly by number
- frames are turned upright; the transparency of an animation lies on white
- a video whose packets are fewer than its header says, or broken, is refused as cut short
"""

import io
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Final, NoReturn

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image as Pillow

from vlserve.media.errors import Refused, too_many_pixels
from vlserve.media.picture import Pixels, as_pixels
from vlserve.media.reader import Data, reader

FORMATS: Final = ("MP4", "WebM", "AVI", "MPEG-TS", "GIF", "APNG", "WebP", "AVIF")
CODECS: Final = frozenset(
    {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "mpeg1video", "mpeg2video"}
)
MAX_PACKETS: Final = 200_000
MAX_S: Final = 4 * 3600
_ANIMATIONS: Final = ("GIF", "PNG", "WEBP", "AVIF")
_TS_PACKET: Final = 188
_EDGE_PIXELS: Final = 2**18
_DAMAGED: Final = "is a video that is damaged or cut short"


def num_pixels(data: Data, max_frames: int, max_pixels: int) -> int:
    """Width times height by the header, times the frames that are wanted. Raises Refused."""
    with _damage_refused():
        if _is_animation(data):
            with _animation(data, max_pixels) as picture:
                return picture.width * picture.height * max_frames
        with _container(data) as container:
            stream = _stream(container, max_pixels)
            return stream.codec_context.width * stream.codec_context.height * max_frames
    raise AssertionError("the context above returns or raises")


def frames(data: bytes, max_frames: int, max_pixels: int) -> Iterator[Pixels]:
    """At most `max_frames` frames, in order, of at most `max_pixels` pixels each, one by one.

    Raises Refused for what is not one whole video in one of FORMATS, and MemoryError.
    """
    with _damage_refused():
        if _is_animation(data):
            yield from _animated(data, max_frames, max_pixels)
        else:
            yield from _sampled(data, max_frames, max_pixels)


def rehearse() -> None:
    """Load what would be loaded with the first frame."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", 1, width=16, height=16, pix_fmt="yuv420p")
        frame = VideoFrame(16, 16, "yuv420p")
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode()])
    if len(list(frames(file.getvalue(), 1, 256))) != 1:
        raise AssertionError("a video of one frame has one")


@contextmanager
def _damage_refused() -> Iterator[None]:
    try:
        yield
    except (Refused, MemoryError, AssertionError, GeneratorExit):
        raise
    except Exception:  # a broken file makes a decoder raise nearly anything
        raise Refused(_DAMAGED) from None


def _is_animation(data: Data) -> bool:
    begin = data[:12]
    is_webp = begin[:4] == b"RIFF" and begin[8:] == b"WEBP"
    is_avif = begin[4:] in (b"ftypavif", b"ftypavis")
    return is_webp or is_avif or begin.startswith((b"GIF8", b"\x89PNG\r\n\x1a\n"))


def _too_large(width: int, height: int, max_pixels: int) -> Refused:
    return too_many_pixels(width, height, max_pixels, "has frames of")


def _animation(data: Data, max_pixels: int) -> Pillow.Image:
    picture = Pillow.open(reader(data), formats=_ANIMATIONS)
    if picture.width * picture.height > max_pixels:
        raise _too_large(picture.width, picture.height, max_pixels)
    return picture


def _animated(data: bytes, max_frames: int, max_pixels: int) -> Iterator[Pixels]:
    picture = _animation(data, max_pixels)
    if picture.format == "GIF" and not _has_end(data):
        raise Refused(_DAMAGED)
    num = getattr(picture, "n_frames", 1)
    for number in _middles(num, max_frames):
        picture.seek(number)
        picture.load()
        yield as_pixels(picture)


def _has_end(data: bytes) -> bool:
    """Whether a GIF's blocks lead to its trailer. Pillow takes for all what it finds."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    at = 13 + table(data[10])
    while at < len(data):
        if data[at] == 0x2C:  # a frame
            at += 11 + table(data[at + 9])
        elif data[at] == 0x21:  # an extension
            at += 2
        else:
            return data[at] == 0x3B
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
    return False


def _middles(num: int, max_num: int) -> list[int]:
    """The middles of `max_num` equal parts of `num` things; all of them where they are no more."""
    if num <= max_num:
        return list(range(num))
    return [(2 * i + 1) * num // (2 * max_num) for i in range(max_num)]


def _format(data: Data) -> str:
    """FFmpeg's name for the container, by its first bytes."""
    if data[4:8] == b"ftyp":
        return "mov"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if data[:4] == b"RIFF" and data[8:11] == b"AVI":
        return "avi"
    if len(data) > 2 * _TS_PACKET and data[0] == data[_TS_PACKET] == data[2 * _TS_PACKET] == 0x47:
        return "mpegts"
    raise Refused(f"is not a video in one of {', '.join(FORMATS)}")


def _container(data: Data) -> InputContainer:
    options = {"protocol_whitelist": "none", "enable_drefs": "0", "max_streams": "64"}
    return av.open(reader(data), "r", _format(data), options, io_open=_open_nothing)


def _open_nothing(*_: Any) -> NoReturn:
    raise Refused("is a video that names other files")


def _stream(container: InputContainer, max_pixels: int) -> VideoStream:
    """The video, judged by its header, in one thread."""
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        raise Refused("holds no video")
    stream = streams[0]
    context = stream.codec_context
    if context.name not in CODECS and stream.codec.canonical_name not in CODECS:
        raise Refused(f"is coded in {context.name}: must be in one of {', '.join(sorted(CODECS))}")
    if context.width < 1 or context.height < 1:
        raise Refused(f"has {context.width} x {context.height} pixels: it holds nothing to see")
    if context.width * context.height > max_pixels:
        raise _too_large(context.width, context.height, max_pixels)
    context.thread_count = 1
    # The decoder's own bound, for frames that are larger than the header says. It counts the
    # edges that it puts around them as well.
    context.options = {"max_pixels": str(2 * max_pixels + _EDGE_PIXELS)}
    return stream


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & stream.disposition.attached_pic)


def _sampled(data: bytes, max_frames: int, max_pixels: int) -> Iterator[Pixels]:
    with _container(data) as container:
        stream = _stream(container, max_pixels)
        base = stream.time_base or Fraction(1, 1)
        times, keys = _packets(container, stream)
        if container.format.name == "mpegts":  # it has no index to be looked up in
            keys = keys[:1]
        wanted = _wanted(times, max_frames)
        length_s = float((times[-1] - times[0]) * base)
        if length_s > MAX_S:
            message = f"is {length_s / 3600:.1f} hours long; at most {MAX_S // 3600} are taken"
            raise Refused(message)
    if not wanted:
        raise Refused("holds no frame")
    with _container(data) as container:
        stream = _stream(container, max_pixels)
        for frame in _decoded(container, stream, wanted, keys):
            if frame.width * frame.height > max_pixels:
                raise _too_large(frame.width, frame.height, max_pixels)
            yield _upright(frame)


def _packets(container: InputContainer, stream: VideoStream) -> tuple[list[int], list[int]]:
    """The times of all frames and of those that stand alone, in order, without decoding any."""
    times, keys = [], []
    for packet in container.demux(stream):
        time = packet.dts if packet.pts is None else packet.pts
        if packet.size == 0 or time is None:
            continue
        if packet.is_corrupt:
            raise Refused(_DAMAGED)
        times.append(time)
        if packet.is_keyframe:
            keys.append(time)
        if len(times) > MAX_PACKETS:
            raise Refused(f"has more than {MAX_PACKETS} frames: cut it")
    if len(times) < stream.frames or not times:
        raise Refused(_DAMAGED)
    return sorted(times), sorted(keys)


def _wanted(times: list[int], max_frames: int) -> list[int]:
    """The times of the frames that are seen in the middles of equal parts, each once."""
    if len(times) <= max_frames:
        return sorted(set(times))
    begin = times[0]
    # The last frame is seen for as long as others are.
    length = (times[-1] - begin) * len(times) // (len(times) - 1)
    middles = (begin + (2 * i + 1) * length // (2 * max_frames) for i in range(max_frames))
    return sorted({times[max(0, bisect_right(times, middle) - 1)] for middle in middles})


def _decoded(
    container: InputContainer, stream: VideoStream, wanted: list[int], keys: list[int]
) -> Iterator[VideoFrame]:
    """The frames at the wanted times, by as few frames on the way as the keys allow."""
    coming = container.decode(stream)
    at: int | None = None
    for time in wanted:
        key = keys[max(0, bisect_right(keys, time) - 1)] if keys else time
        if at is not None and key > at:
            container.seek(key, stream=stream)
            coming = container.decode(stream)
        frame = _frame_at(coming, time)
        if frame is None:
            raise Refused(_DAMAGED)
        at = frame.pts
        yield frame


def _frame_at(coming: Iterator[VideoFrame], time: int) -> VideoFrame | None:
    for frame in coming:
        if frame.is_corrupt:
            raise Refused(_DAMAGED)
        if frame.pts is None or frame.pts >= time:
            return frame
    return None


def _upright(frame: VideoFrame) -> Pixels:
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
