"""Pictures of every kind that the service takes, as encoded bytes."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyvips
from PIL import Image

from vlserve.media import picture as decoder
from vlserve.media.room import image

SIZE = (37, 23)
Pixels = npt.NDArray[np.uint8]
# Decoders differ in how they enlarge halved colours.
EXACT_AVIF: dict[str, Any] = {"quality": 100, "subsampling": "4:4:4", "speed": 10}


def scene(size: tuple[int, int] = SIZE, num_bands: int = 3) -> Pixels:
    """Smooth colours with a hard edge: uint8[height, width, num_bands]."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    bands = [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + 2 * y) * 3 % 256]
    opacity = (x * 5 + y * 3) % 256
    picture = np.stack([*bands, opacity], axis=-1).astype(np.uint8)
    picture[: height // 3, : width // 3, :3] = (200, 30, 60)
    return np.ascontiguousarray(picture[..., :num_bands])


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """`picture` as a file of that kind."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _oriented(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(scene((16, 24)))
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95},
        "WEBP": {"lossless": True},
        "AVIF": EXACT_AVIF,
    }
    return encoded(picture, kind, exif=exif, **options.get(kind, {}))


def kinds() -> dict[str, bytes]:
    """Every kind whose pixels a second decoder agrees on, by name."""
    rgb = Image.fromarray(scene())
    rgba = Image.fromarray(scene(num_bands=4))
    grey = rgb.convert("L")
    palette = rgb.quantize(16)
    clear_palette = palette.copy()
    clear_palette.info["transparency"] = 3
    wide = scene().astype(np.uint16) * 257 - scene() // 2
    wide_vips = pyvips.Image.new_from_array(wide, interpretation="rgb16")
    wide_grey = Image.fromarray(wide[..., 1])
    frames = [palette, rgb.transpose(Image.Transpose.ROTATE_180).quantize(16)]
    files = {
        "png rgb": encoded(rgb, "PNG"),
        "png rgba": encoded(rgba, "PNG"),
        "png grey": encoded(grey, "PNG"),
        "png grey alpha": encoded(rgba.convert("LA"), "PNG"),
        "png 1 bit": encoded(grey.convert("1"), "PNG"),
        "png palette": encoded(palette, "PNG"),
        "png palette tRNS": encoded(clear_palette, "PNG", transparency=3),
        "png palette tRNS bytes": encoded(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "png rgb tRNS": encoded(rgb, "PNG", transparency=(200, 30, 60)),
        "png grey tRNS": encoded(grey, "PNG", transparency=int(np.asarray(grey)[0, 0])),
        "png grey 16": encoded(wide_grey, "PNG"),
        "png rgb 16": wide_vips.pngsave_buffer(bitdepth=16),
        "png rgb interlaced": pyvips.Image.new_from_array(scene()).pngsave_buffer(interlace=True),
        "jpeg": encoded(rgb, "JPEG", quality=90),
        "jpeg 4:4:4": encoded(rgb, "JPEG", quality=90, subsampling=0),
        "jpeg progressive": encoded(rgb, "JPEG", quality=80, progressive=True),
        "jpeg grey": encoded(grey, "JPEG"),
        "jpeg restart markers": encoded(rgb, "JPEG", restart_marker_blocks=1),
        "webp lossless": encoded(rgb, "WEBP", lossless=True),
        "webp lossy": encoded(rgb, "WEBP", quality=80),
        "webp rgba": encoded(rgba, "WEBP", lossless=True, exact=True),
        "gif": encoded(palette, "GIF"),
        "gif transparent": encoded(palette, "GIF", transparency=3),
        "gif animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "webp animated": encoded(
            rgb, "WEBP", save_all=True, lossless=True, append_images=[frames[1].convert("RGB")]
        ),
        "mpo": encoded(rgb, "MPO", quality=90, save_all=True, append_images=[rgb.rotate(180)]),
        "avif": encoded(rgb, "AVIF", **EXACT_AVIF),
        "avif rgba": encoded(rgba, "AVIF", **EXACT_AVIF),
        "avif grey": encoded(grey, "AVIF", **EXACT_AVIF),
        "tiff rgb": encoded(rgb, "TIFF"),
        "tiff rgba": encoded(rgba, "TIFF"),
        "tiff lzw": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encoded(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "tiff packbits": encoded(rgb, "TIFF", compression="packbits"),
        "tiff jpeg": encoded(rgb, "TIFF", compression="jpeg", quality=90),
        "tiff group 4": encoded(grey.convert("1"), "TIFF", compression="group4"),
        "tiff grey": encoded(grey, "TIFF"),
        "tiff grey 16": encoded(wide_grey, "TIFF"),
        "tiff rgb 16": wide_vips.tiffsave_buffer(),
        "tiff palette": encoded(palette, "TIFF"),
        "tiff white is zero": encoded(grey, "TIFF", tiffinfo={262: 0}),
        "tiff white is zero 16": encoded(wide_grey, "TIFF", tiffinfo={262: 0}),
        "tiff tiled": pyvips.Image.new_from_array(scene((300, 200))).tiffsave_buffer(
            tile=True, tile_width=64, tile_height=64
        ),
        "tiff pages": encoded(rgb, "TIFF", save_all=True, append_images=[rgb.rotate(180)]),
    }
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
        for orientation in range(1, 9):
            files[f"{kind.lower()} orientation {orientation}"] = _oriented(kind, orientation)
    for size in ((1, 1), (1, 500), (500, 1), (3, 2), (640, 481)):
        name = f"{size[0]}x{size[1]}"
        files[f"png {name}"] = encoded(Image.fromarray(scene(size)), "PNG")
        files[f"jpeg {name}"] = encoded(Image.fromarray(scene(size)), "JPEG", quality=90)
    return files


def bitmaps() -> dict[str, tuple[bytes, Pixels]]:
    """BMP files and their pixels, since the second decoder does not read them."""
    rgb = Image.fromarray(scene())
    forms = {"rgb": rgb, "grey": rgb.convert("L"), "palette": rgb.quantize(16)}
    forms["1 bit"] = rgb.convert("1")
    return {
        f"bmp {name}": (encoded(form, "BMP"), np.asarray(form.convert("RGB")))
        for name, form in forms.items()
    }


def profiled() -> dict[str, tuple[bytes, Pixels]]:
    """Pictures whose colours are another space's, its profile in the file, and their pixels by
    libvips, which follows it."""
    p3 = pyvips.Image.new_from_array(scene()).icc_transform("p3", input_profile="srgb")
    cmyk = pyvips.Image.new_from_array(scene()).icc_transform("cmyk", input_profile="srgb")
    files = {
        "png p3": p3.pngsave_buffer(),
        "tiff p3": p3.tiffsave_buffer(),
        "webp p3": p3.webpsave_buffer(lossless=True),
        "jpeg cmyk profile": cmyk.jpegsave_buffer(Q=100),
    }
    return {name: (data, _followed(data)) for name, data in files.items()}


def _followed(data: bytes) -> Pixels:
    picture = pyvips.Image.new_from_buffer(data, "")
    followed = picture.icc_transform("srgb", embedded=True, intent="perceptual")
    return np.asarray(followed.numpy())


def odd() -> dict[str, tuple[bytes, Pixels]]:
    """All that is odd but valid, by name: a file, and its pixels as another decoder has them."""
    agreed = {name: (data, second_opinion(data)) for name, data in kinds().items()}
    return agreed | bitmaps() | profiled()


def second_opinion(data: bytes) -> Pixels:
    """The same decisions as media's, by libvips: uint8[height, width, 3]."""
    picture = pyvips.Image.new_from_buffer(data, "", fail_on="error").autorot()
    if picture.hasalpha():
        is_wide = picture.format == "ushort"
        picture = picture.flatten(background=[65535 if is_wide else 255])
    return np.asarray(picture.colourspace("srgb").cast("uchar").numpy())


def digest(data: bytes) -> str:
    """The digest of the Image that the service makes of a file."""
    return image(decoder.decode(data, 2**26)).sha256
