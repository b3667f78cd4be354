"""What is odd but valid has the pixels that a second decoder gives it, and each rule is needed."""

from collections.abc import Iterable

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFile

from tests import pictures
from vlserve.media import picture

MAX_PIXELS = 1_000_000
MOST = 2  # the largest difference of a sample
ODD = pictures.odd()
# What Pillow says about odd files is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
_opened = picture._opened


def differing() -> set[str]:
    """Those whose pixels are not the second decoder's."""
    return {name for name, (data, expected) in ODD.items() if not is_same(data, expected)}


def is_same(data: bytes, expected: pictures.Pixels) -> bool:
    found = picture.decode(data, MAX_PIXELS)
    if found.shape != expected.shape:
        return False
    return bool(np.abs(found.astype(int) - expected.astype(int)).max() <= MOST)


def test_pixels_equal_those_of_a_second_decoder() -> None:
    wrong = differing()
    print(f"odd pictures: tried {len(ODD)}, held {len(ODD) - len(wrong)}")
    assert not wrong
    assert len(ODD) >= 80
    pixels = picture.decode(ODD["png rgb"][0], MAX_PIXELS)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


def last_frame(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    opened = _opened(data, max_pixels)
    opened.seek(getattr(opened, "n_frames", 1) - 1)
    return opened


def clipped(grey: Pillow.Image) -> tuple[Pillow.Image, None]:
    return grey.convert("I").convert("L"), None


def named(*words: str) -> set[str]:
    """Those with one of these words in their names."""
    return {name for name in ODD if any(word in name for word in words)}


# Pillow turns TIFF by itself.
TURNED = named(*(f"orientation {i}" for i in range(2, 9))) - named("tiff")
CLEAR = named("rgba", "alpha", "tRNS", "transparent")
OFF: dict[str, tuple[str, object, Iterable[str]]] = {
    "turning": ("_TURNS", {}, TURNED),
    "white below": ("_on_white", lambda colours, alpha: colours, CLEAR),
    "profiles": ("_srgb", lambda colours, profile: colours.convert("RGB"), pictures.profiled()),
    "the first frame": ("_opened", last_frame, named("animated", "pages", "mpo")),
    "16 bits": ("_grey16", clipped, named("grey 16", "zero 16")),
}


@pytest.mark.parametrize("rule", OFF)
def test_without_a_rule_those_that_need_it_differ(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controls."""
    name, other, needing = OFF[rule]
    monkeypatch.setattr(picture, name, other)
    wrong = differing()
    print(f"odd pictures, control: without {rule} tried {len(ODD)}, held {len(ODD) - len(wrong)}")
    assert wrong == set(needing)
