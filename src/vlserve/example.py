"""The bundled picture, and the question that is asked of a picture where nobody asks another."""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

QUESTION: Final = "Describe the image"
PIXELS: Final = 320 * 240  # width times height of the picture


def picture() -> Traversable:
    """The file of the picture, a PNG."""
    return resources.files("vlserve.models") / "embedded" / "example.png"
