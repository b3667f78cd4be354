"""Label grids: what stands at each patch, and what covers it."""

import numpy as np
from numpy.typing import NDArray

from training.world import (
    CHARACTER,
    CHARACTERS,
    COLOUR,
    GRID,
    SHAPE,
    SHAPES,
    SIZE,
    Scene,
    canonical_patch,
)

from .marks import Layout

# A character whose centre lies this near to the border of its patch (in patches) may as well be
# read from the patch beyond.
BORDER = 0.12
# Values of the neighbour grid: 0 for none, else 1 + index here; (row, column) steps.
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def patches(scene: Scene) -> list[tuple[int, int]]:
    """The (row, column) of the patch that holds the centre of each character."""
    return [(min(int(y * GRID), GRID - 1), min(int(x * GRID), GRID - 1)) for x, y in scene.centres]


def label_grid(scene: Scene) -> NDArray[np.uint8]:
    """`u8[GRID, GRID, 4]`: columns SHAPE, COLOUR, SIZE and CHARACTER; 0 for nothing."""
    grid = np.zeros((GRID, GRID, 4), np.uint8)
    for thing in scene.things:
        patch = grid[canonical_patch(thing.place)]
        patch[SHAPE], patch[COLOUR], patch[SIZE] = thing.shape + 1, thing.colour + 1, thing.size + 1
    for character, patch_at in zip(scene.text, patches(scene), strict=True):
        grid[patch_at][CHARACTER] = CHARACTERS.index(character) + 1
    return grid


def neighbour_grid(scene: Scene) -> NDArray[np.uint8]:
    """`u8[GRID, GRID]`: at a patch with a character near its border, which neighbour is as good.

    None where that neighbour lies outside, where another character has a claim to it, or where
    the step would bring two characters of a line into one column (they are read by columns).
    """
    grid = np.zeros((GRID, GRID), np.uint8)
    taken = set(patches(scene))
    for (row, column), (x, y) in zip(patches(scene), scene.centres, strict=True):
        down, right = y * GRID - row, x * GRID - column
        nearest = int(np.argmin([down, 1 - down, right, 1 - right]))
        if min(down, 1 - down, right, 1 - right) >= BORDER:
            continue
        beyond = (row + STEPS[nearest][0], column + STEPS[nearest][1])
        near = {(beyond[0] + step, beyond[1]) for step in (-1, 0, 1)} - {(row, column)}
        blocked = near if beyond[1] != column else {beyond}
        if blocked & taken or not all(0 <= part < GRID for part in beyond):
            continue
        taken.add(beyond)
        grid[row, column] = nearest + 1
    return grid


def cover_grid(layout: Layout) -> NDArray[np.uint8]:
    """`u8[GRID, GRID, 2]`: (kind, colour) of what covers the middle of each patch.

    Kinds: 0 nothing, then the shapes, then the characters; colours as in a label grid, for
    shapes only.
    """
    grid = np.zeros((GRID, GRID, 2), np.uint8)
    middles = (np.arange(GRID) + 0.5) / GRID
    xs, ys = middles * layout.width, middles[:, None] * layout.height
    for figure, thing in zip(layout.figures, layout.scene.things, strict=True):
        x, y = figure.centre
        inside = (xs - x) ** 2 + (ys - y) ** 2 <= figure.radius**2
        grid[inside] = (thing.shape + 1, thing.colour + 1)
    for glyph in layout.glyphs:
        x, y = glyph.centre
        inside = (abs(xs - x) <= glyph.half_width) & (abs(ys - y) <= glyph.half_height)
        grid[inside, 0] = 1 + len(SHAPES) + CHARACTERS.index(glyph.character)
    return grid
