"""The world that the embedded model knows: the nouns that drawing, questions and training share."""

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")
SIZES = ("small", "large")
DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHARACTERS = DIGITS + LETTERS
# Row by row from the top left: index = 3 * row + column.
PLACES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

# Pictures are resized to one square of this many pixels a side, cut into GRID x GRID patches.
IMAGE_SIZE = 80
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE

# Columns of a label grid, `uint8[GRID, GRID, 4]`: 0 means nothing there, i + 1 means entry i of
# SHAPES, COLOURS, SIZES, CHARACTERS. An object stands at the canonical patch of its place, a
# character at the patch that holds its centre.
SHAPE, COLOUR, SIZE, CHARACTER = range(4)


def canonical_patch(place: int) -> tuple[int, int]:
    """The (row, column) of the patch that stands for place 0 to 8."""
    centre = (GRID // 6, GRID // 2, GRID - 1 - GRID // 6)
    return centre[place // 3], centre[place % 3]


@dataclass(frozen=True)
class Thing:
    """One drawn shape: indices into SHAPES, COLOURS, SIZES and PLACES."""

    shape: int
    colour: int
    size: int
    place: int


@dataclass(frozen=True)
class Scene:
    """What a picture shows: up to three things in different places, or one printed text.

    `centres` are the (x, y) centres of the characters of `text`, as fractions of the width and
    the height of the picture, left to right.
    """

    things: tuple[Thing, ...] = ()
    text: str = ""
    centres: tuple[tuple[float, float], ...] = ()
