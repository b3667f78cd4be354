"""Draws pictures of the embedded model's world, each with what it shows."""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.world import IMAGE_SIZE, Scene

from . import pil, resvg, skia
from .fonts import Fonts
from .layout import LONGEST_SIDE, Kind, sample
from .marks import Layout

# "training" takes one of the two renderers that training may see, by the seed.
Renderer = Literal["training", "pil", "skia", "resvg"]


def picture(
    seed: int,
    kind: Kind,
    renderer: Renderer = "training",
    fonts: Fonts = "training",
    longest: tuple[int, int] = LONGEST_SIDE,
) -> tuple[Image.Image, Scene]:
    """The picture, in RGB at full size, and the scene that `seed` stands for."""
    layout = sample(seed, kind, fonts, longest)
    return render(layout, renderer, seed), layout.scene


def render(layout: Layout, renderer: Renderer, seed: int) -> Image.Image:
    """The layout drawn, blurred and through JPEG as it says. Raises ValueError if unknown."""
    if renderer == "training":
        renderer = ("pil", "skia")[int(np.random.default_rng([seed, 77]).integers(2))]
    if renderer == "pil":
        image = pil.draw(layout)
    elif renderer == "skia":
        image = skia.draw(layout)
    elif renderer == "resvg":
        image = resvg.draw(layout)
    else:
        raise ValueError(f"unknown renderer {renderer!r}")
    if layout.blur:
        image = image.filter(ImageFilter.GaussianBlur(layout.blur))
    if layout.jpeg:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=layout.jpeg)
        image = Image.open(file).convert("RGB")
    return image


def reduced(image: Image.Image) -> NDArray[np.uint8]:
    """`u8[IMAGE_SIZE, IMAGE_SIZE, 3]`: exactly the resize of the model's image processor."""
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))
