"""Bytes -> pixels: the same as a second decoder's, and nothing but a refusal of ours."""

import hashlib
import re
import resource
import struct
import zlib

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from tests import pictures
from vlserve.media import picture
from vlserve.media.errors import Refused
from vlserve.media.room import image

MAX_PIXELS = 1_000_000
KINDS = pictures.kinds()
BITMAPS = pictures.bitmaps()
TAKEN = "a picture in one of PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF"
TEXTS = re.compile(
    r"has \d+ x \d+ pixels: it holds nothing to see"
    r"|has (\d+ x \d+ = \d+|more than 1000000) pixels; scale it (to at most 1000000|down)"
    r"|has samples of mode \w+: send whole numbers of 1, 8 or 16 bits"
    rf"|is not {TAKEN}"
    r"|is a picture that is damaged or cut short"
)
# What Pillow says about odd files is not what is tested: the server runs with Python's own filters.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def load(data: bytes) -> pictures.Pixels:
    return picture.decode(data, MAX_PIXELS)


def refusal(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(Refused) as refused:
        picture.decode(data, max_pixels)
    assert refused.value.__cause__ is None
    return str(refused.value)


def difference(one: pictures.Pixels, two: pictures.Pixels) -> int:
    assert one.shape == two.shape
    return int(np.abs(one.astype(int) - two.astype(int)).max())


def test_lossless_colours_come_through_exactly() -> None:
    for kind in ("png rgb", "webp lossless", "tiff lzw", "png rgb interlaced"):
        assert difference(load(KINDS[kind]), pictures.scene()) == 0


def test_transparency_lies_on_white() -> None:
    rgba = pictures.scene(num_bands=4).astype(float)
    opacity = rgba[..., 3:] / 255
    expected = np.round(rgba[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    assert difference(load(KINDS["png rgba"]), expected) <= 1
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    assert load(pictures.encoded(clear, "PNG")).min() == 255


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 255, 256, 32768, 65407, 65535]], np.uint16)
    data = pictures.encoded(Image.fromarray(values), "PNG")
    expected = np.round(values[0].astype(float) * 255 / 65535)
    assert load(data)[0, :, 0].tolist() == expected.tolist()


def test_sixteen_bit_grey_with_a_transparent_value() -> None:
    values = np.array([[1000, 2000, 1000]], np.uint16)
    data = pictures.encoded(Image.fromarray(values), "PNG", transparency=1000)
    assert load(data)[0, :, 0].tolist() == [255, 8, 255]


def test_cmyk_is_ink_not_light() -> None:
    patches = np.zeros((8, 32, 4), np.uint8)
    for i, ink in enumerate([(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]):
        patches[:, 8 * i : 8 * i + 8] = ink
    data = pictures.encoded(Image.fromarray(patches, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data[:64]  # which stores ink inverted
    light = [(255, 255, 255), (0, 255, 255), (255, 0, 0), (0, 0, 0)]
    expected = np.repeat(np.array(light, np.uint8), 8, axis=0)[None].repeat(8, axis=0)
    assert difference(load(data), expected) <= 3


def test_ycck_is_read_as_cmyk() -> None:
    """Colour transform 2 in the Adobe marker: what image editors write."""
    patches = pyvips.Image.black(16, 16, bands=4).linear(1, [0, 255, 255, 0])
    data = patches.cast("uchar").copy(interpretation="cmyk").jpegsave_buffer(Q=100)
    assert difference(load(data), np.full((16, 16, 3), (255, 0, 0), np.uint8)) <= 3


@pytest.mark.parametrize("profile", [b"no profile", b"\0" * 200])
def test_a_profile_that_is_none_is_ignored(profile: bytes) -> None:
    data = pictures.encoded(Image.fromarray(pictures.scene()), "PNG", icc_profile=profile)
    assert difference(load(data), pictures.scene()) == 0


def test_a_profile_of_other_colours_is_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = pictures.encoded(Image.fromarray(pictures.scene()), "PNG", icc_profile=lab)
    assert difference(load(data), pictures.scene()) == 0


def test_an_exif_block_that_cannot_be_read_is_ignored() -> None:
    for block in (
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff",
    ):
        data = pictures.encoded(Image.fromarray(pictures.scene()), "PNG", exif=block)
        assert difference(load(data), pictures.scene()) == 0


def test_an_exif_block_of_an_avif_begins_as_it_must() -> None:
    exif = Image.Exif()
    exif[0x010F] = "somebody"
    whole = pictures.encoded(Image.fromarray(pictures.scene()), "AVIF", exif=exif)
    at = whole.rindex(b"MM\0*")
    assert TEXTS.fullmatch(refusal(whole[:at] + b"none" + whole[at + 4 :]))
    kept = whole[: at + 4] + b"\x7f\xff\xff\xff" + whole[at + 8 :]  # it leads nowhere
    assert difference(load(kept), load(whole)) == 0


def test_digest_is_of_size_and_pixels() -> None:
    images = {
        kind: image(load(KINDS[kind]))
        for kind in ("png rgb", "tiff rgb", "webp lossless", "png rgba")
    }
    assert images["png rgb"].sha256 == images["tiff rgb"].sha256 == images["webp lossless"].sha256
    assert images["png rgb"].sha256 != images["png rgba"].sha256
    expected = hashlib.sha256(b"37x23:" + pictures.scene().tobytes()).hexdigest()
    assert images["png rgb"].sha256 == expected
    lying, standing = (
        image(load(pictures.encoded(Image.new("RGB", size), "PNG"))) for size in ((2, 8), (8, 2))
    )
    assert lying.sha256 != standing.sha256


def chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png_claiming(width: int, height: int) -> bytes:
    """A small file whose header claims that size; its data is a long run of zeros."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body)


REFUSED = {
    "text": b"this is no picture at all, only a text",
    "an ftyp without a size": b"\0\0\0\0ftyp",
    "ppm": b"P6 2 2 255\n" + bytes(12),
    "ico": pictures.encoded(Image.new("RGB", (16, 16)), "ICO"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "only a signature": b"\x89PNG\r\n\x1a\n",
    "png 0 wide": png_claiming(0, 5),
    "bmp 0 wide": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 5, 1, 24, 0, 0, 0, 0, 0, 0),
    "gif 0 by 0": b"GIF89a" + bytes(7) + b";",
    "tiff float": pyvips.Image.black(4, 4).cast("float").tiffsave_buffer(),
    "tiff lab": pyvips.Image.new_from_array(pictures.scene()).colourspace("lab").tiffsave_buffer(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused(name: str) -> None:
    assert TEXTS.fullmatch(refusal(REFUSED[name]))


FOREIGN = {
    "heic": ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)),
    "heif that says heic last": ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix" + bytes(40)),
    "jp2": ("JPEG 2000", pictures.encoded(Image.new("RGB", (9, 9)), "JPEG2000")),
    "j2k": ("JPEG 2000", pictures.encoded(Image.new("RGB", (9, 9)), "JPEG2000", no_jp2=True)),
    "jxl": ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)),
    "jxl without boxes": ("JPEG XL", b"\xff\x0a" + bytes(40)),
    "pdf": ("PDF", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n"),
    "svg": ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_format_that_people_send_is_refused_by_its_name(kind: str) -> None:
    name, data = FOREIGN[kind]
    assert refusal(data) == f"is {name}: must be {TAKEN}"


@pytest.mark.parametrize("size", [(1001, 1000), (13000, 13000), (65500, 65500), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_by_the_header(size: tuple[int, int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = refusal(png_claiming(*size))
    what = f"{size[0]} x {size[1]} = {size[0] * size[1]}"
    assert found in (
        f"has {what} pixels; scale it to at most 1000000",
        "has more than 1000000 pixels; scale it down",  # where Pillow says so before us
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_the_bound_holds_in_every_format(kind: str) -> None:
    data = pictures.encoded(Image.new("RGB", (100, 101)), kind)
    assert picture.decode(data, 10_100).shape[0] == 101
    assert refusal(data, 10_099) == "has 100 x 101 = 10100 pixels; scale it to at most 10099"


def load_or_refusal(data: bytes) -> pictures.Pixels | Refused:
    try:
        return load(data)
    except Refused as refused:
        return refused


TRUNCATED = [
    *("png rgb", "png rgba", "png grey 16", "png palette tRNS bytes", "png rgb interlaced"),
    *("jpeg", "jpeg progressive", "jpeg grey", "webp lossless", "webp lossy", "webp rgba"),
    *("gif", "gif animated", "tiff rgb", "tiff lzw", "tiff jpeg", "bmp rgb", "bmp palette"),
    *("avif", "avif rgba", "mpo"),
]


@pytest.mark.parametrize("kind", TRUNCATED)
def test_a_cut_picture_is_never_taken_for_a_whole_one(kind: str) -> None:
    """Cut at every offset: refused, or, where only what follows the picture is lost, the same."""
    whole = BITMAPS[kind][0] if kind in BITMAPS else KINDS[kind]
    expected = load(whole)
    taken = []
    for length in range(1, len(whole)):
        found = load_or_refusal(whole[:length])
        if isinstance(found, Refused):
            assert TEXTS.fullmatch(str(found))
        else:
            assert np.array_equal(found, expected), f"other pixels at {length} of {len(whole)}"
            taken.append(length)
    print(f"{kind}: tried {len(whole) - 1}, refused {len(whole) - 1 - len(taken)}, {taken[:3]}")
