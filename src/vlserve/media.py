"""ImageRef -> Image: the only room that decodes a byte, and the home of Pillow.

What comes in is not trusted. The format is one of a short list, the size is read from the
header and judged before a pixel is decoded, and what cannot be decoded whole is refused with a
text of ours. What goes out is RGB in sRGB, upright, without transparency.

Decisions, each tested:
- the first frame of an animation, the first page of a TIFF
- transparency lies on white
- 16-bit grey is scaled to 8 bits by 255/65535, rounded; 16-bit colour keeps its high byte
- an ICC profile that fits the picture's colours is followed, any other is ignored
- an EXIF block that cannot be read is ignored: it says nothing about the pixels
"""

import base64
import hashlib
import io
import warnings
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageCms, TiffImagePlugin, UnidentifiedImageError

from vlserve.errors import ServeError, invalid
from vlserve.types import Image, ImageRef

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

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


def num_pixels(ref: ImageRef) -> int:
    """Width times height by a picture's header; 0 where it has none, which `load` will say."""
    try:
        with Pillow.open(io.BytesIO(_encoded(ref)), formats=FORMATS) as picture:
            return picture.width * picture.height
    except Exception:  # a broken file makes Pillow raise nearly anything
        return 0


def load(ref: ImageRef, max_pixels: int) -> Image:
    """Decode an untrusted picture of at most `max_pixels` (width times height) pixels.

    May be called from several threads at once. Raises ServeError(INVALID_ARGUMENT) naming
    `ref.field` for whatever is not one whole picture in one of FORMATS.
    """
    if not _encoded(ref):
        raise invalid(ref.field, "holds no data")
    try:
        stored = _decoded(ref, max_pixels)
        turn = _TURNS.get(_orientation(stored))
        colours, alpha = _without_alpha(stored)
        upright = _on_white(_srgb(colours, stored.info.get("icc_profile")), alpha)
        if turn is not None:
            upright = upright.transpose(turn)
    except (ServeError, MemoryError):  # running out of memory is our fault, not the caller's
        raise
    except (Pillow.DecompressionBombWarning, Pillow.DecompressionBombError):
        raise _too_large(ref, max_pixels) from None
    except UnidentifiedImageError:
        raise invalid(ref.field, f"is not a picture in one of {', '.join(FORMATS)}") from None
    except Exception:  # a broken file makes Pillow raise nearly anything
        raise invalid(ref.field, "is a picture that is damaged or cut short") from None
    pixels = np.array(upright)
    digest = hashlib.sha256(f"{upright.width}x{upright.height}:".encode())
    digest.update(pixels.data)
    return Image(pixels=pixels, sha256=digest.hexdigest())


def _encoded(ref: ImageRef) -> bytes:
    """The picture's file, out of a `data:` URL where it is in one."""
    if not ref.url:
        return ref.data
    head, comma, body = ref.url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise invalid(ref.field, "must be a data: URL in base64")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        raise invalid(ref.field, "is not base64") from None


def _too_large(ref: ImageRef, max_pixels: int) -> ServeError:
    return invalid(ref.field, f"has more than {max_pixels} pixels")


def _decoded(ref: ImageRef, max_pixels: int) -> Pillow.Image:
    """The first frame as it was stored, judged by its header before it is decoded."""
    picture = Pillow.open(io.BytesIO(_encoded(ref)), formats=FORMATS)
    if picture.width < 1 or picture.height < 1:
        raise invalid(ref.field, "has no pixels")
    if picture.width * picture.height > max_pixels:
        raise _too_large(ref, max_pixels)
    picture.load()
    if picture.mode in ("I", "F", "LAB"):
        raise invalid(ref.field, "has a sample format that is not supported")
    return picture


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
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


def _on_white(colours: Pillow.Image, alpha: Pillow.Image | None) -> Pillow.Image:
    if alpha is None:
        return colours
    ground = Pillow.new("RGB", colours.size, _WHITE)
    ground.paste(colours, mask=alpha)
    return ground
