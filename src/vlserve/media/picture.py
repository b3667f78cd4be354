"""An encoded picture -> its pixels, by Pillow. Runs in a process made for it (`worker.py`).

What comes in is not trusted. The format is one of a short list, the size is read from the
header and judged before a pixel is decoded, and what cannot be decoded whole is refused with a
text of ours. What goes out is RGB in sRGB, upright, without transparency.

Decisions, each tested:
- the first frame of an animation, the first page of a TIFF
- transparency lies on white
- 16-bit grey is scaled to 8 bits by 255/65535, rounded; 16-bit colour keeps its high byte
- an ICC profile that fits the picture's colours is followed, any other is ignored
- an EXIF block that cannot be read is ignored: it says nothing about the pixels; but the decoder
  of AVIF refuses the picture for one that does not begin as it must
- HEIC, JPEG 2000 and other formats that people do send are refused by their name
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, ImageCms, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL import Image as Pillow

from vlserve.media.errors import Refused, too_many_pixels
from vlserve.media.reader import Data, reader

Pixels = npt.NDArray[np.uint8]

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Formats that are not taken, by what they begin with.
_FOREIGN: Final = {
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"%PDF-": "PDF",
    b"<svg": "SVG",
}
_HEIC_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_BRANDS_END: Final = 64  # in bytes from the beginning

_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
_PROFILE_SPACES: Final = {"RGB": "RGB ", "CMYK": "CMYK", "L": "GRAY"}
_WHITE: Final = (255, 255, 255)

# Filters are per process, not per thread, so this one is set once. A picture above Pillow's own
# bound (about 89 million pixels) is an error wherever Pillow notices it, not a line in a log.
warnings.filterwarnings("error", category=Pillow.DecompressionBombWarning)
# Without it AVIF takes a thread for each processor, and each of them address space.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def num_pixels(data: Data, max_pixels: int) -> int:
    """Width times height by the header, from 1 to `max_pixels`. Raises Refused."""
    with _damage_refused(max_pixels), _opened(data, max_pixels) as picture:
        return picture.width * picture.height


def decode(data: bytes, max_pixels: int) -> Pixels:
    """The picture in `data`, of at most `max_pixels` pixels (width times height).

    Raises Refused for whatever is not one whole picture in one of FORMATS, and MemoryError.
    """
    with _damage_refused(max_pixels):
        return as_pixels(_loaded(data, max_pixels))


def as_pixels(picture: Pillow.Image) -> Pixels:
    """A loaded picture, or the frame at which it stands, as the decisions above have it.

    Raises Refused for samples that have no eight bits to them.
    """
    if picture.mode in ("I", "F", "LAB"):
        raise Refused(f"has samples of mode {picture.mode}: send whole numbers of 1, 8 or 16 bits")
    turn = _TURNS.get(_orientation(picture))
    profile = picture.info.get("icc_profile")
    colours, alpha = _without_alpha(picture)
    # What is not needed any more is let go at each step: a large picture is in memory twice.
    del picture
    colours = _srgb(colours, profile)
    upright = colours if alpha is None else _on_white(colours, alpha)
    del colours, alpha
    if turn is not None:
        upright = upright.transpose(turn)
    return np.asarray(upright)


@contextmanager
def _damage_refused(max_pixels: int) -> Iterator[None]:
    try:
        yield
    except (Refused, MemoryError):
        raise
    except (Pillow.DecompressionBombWarning, Pillow.DecompressionBombError):
        message = f"has more than {max_pixels} pixels; scale it down"
        raise Refused(message, "max_image_pixels") from None
    except Exception:  # a broken file makes Pillow raise nearly anything
        raise Refused("is a picture that is damaged or cut short") from None


def _opened(data: Data, max_pixels: int) -> ImageFile.ImageFile:
    """The first frame as it is stored, judged by its header and not decoded yet."""
    try:
        picture = Pillow.open(reader(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _not_taken(data[:_BRANDS_END]) from None
    if picture.width < 1 or picture.height < 1:
        raise Refused(f"has {picture.width} x {picture.height} pixels: it holds nothing to see")
    if picture.width * picture.height > max_pixels:
        raise too_many_pixels(picture.width, picture.height, max_pixels)
    return picture


def _not_taken(begin: bytes) -> Refused:
    taken = f"in one of {', '.join(FORMATS)}"
    name = "HEIC" if _is_heic(begin) else ""
    for mark, foreign in _FOREIGN.items():
        name = foreign if begin.startswith(mark) else name
    return Refused(f"is {name}: must be a picture {taken}" if name else f"is not a picture {taken}")


def _is_heic(begin: bytes) -> bool:
    """Whether one of a file's brands says so: what it is, and what can read it."""
    brands = (begin[at : at + 4] for at in range(8, _BRANDS_END, 4))
    return begin[4:8] == b"ftyp" and any(brand in _HEIC_BRANDS for brand in brands)


def _loaded(data: bytes, max_pixels: int) -> Pillow.Image:
    picture = _opened(data, max_pixels)
    picture.load()
    return picture


def png(pixels: Pixels) -> bytes:
    """uint8[height, width, 3] as a PNG file: what a client of ours sends."""
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _orientation(picture: Pillow.Image) -> int:
    """The EXIF orientation, 1 where there is none or the block cannot be read."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _without_alpha(picture: Pillow.Image) -> tuple[Pillow.Image, Pillow.Image | None]:
    """The colours, of mode L, RGB or CMYK, and the opacity, of mode L, where there is one."""
    if picture.mode.startswith("I;16"):
        return _grey16(picture)
    is_grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        picture = picture.convert("LA" if is_grey else "RGBA")
        return picture.convert("L" if is_grey else "RGB"), picture.getchannel("A")
    if is_grey:
        return picture.convert("L"), None
    return (picture if picture.mode == "CMYK" else picture.convert("RGB")), None


def _grey16(picture: Pillow.Image) -> tuple[Pillow.Image, Pillow.Image | None]:
    """16-bit grey as 8-bit. Pillow itself would clip at 255, and leaves inverted TIFF as it is."""
    samples = np.asarray(picture).astype(np.uint32)
    transparent = picture.info.get("transparency")
    alpha = None
    if isinstance(transparent, int):
        alpha = Pillow.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8))
    grey = ((samples * 255 + 32767) // 65535).astype(np.uint8)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        is_white_zero = picture.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        grey = 255 - grey if is_white_zero else grey
    return Pillow.fromarray(grey), alpha


def _srgb(colours: Pillow.Image, profile: bytes | None) -> Pillow.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space == _PROFILE_SPACES[colours.mode]:
                return _followed(colours, source)
        except (OSError, ImageCms.PyCMSError):
            pass  # not a profile: the colours are taken as they are, as without one
    return colours.convert("RGB")


def _followed(colours: Pillow.Image, source: ImageCms.ImageCmsProfile) -> Pillow.Image:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    transform = ImageCms.buildTransform(source, srgb, colours.mode, "RGB")
    followed = ImageCms.applyTransform(colours, transform)
    if followed is None:
        raise ValueError("a transform that is not in place returns a picture")
    return followed


def _on_white(colours: Pillow.Image, alpha: Pillow.Image) -> Pillow.Image:
    ground = Pillow.new("RGB", colours.size, _WHITE)
    ground.paste(colours, mask=alpha)
    return ground
