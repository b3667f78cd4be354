"""Random scenes and their label grids, for learning language without drawing anything."""

import random

import numpy as np
from numpy.typing import NDArray

from training.world import (
    CHARACTER,
    CHARACTERS,
    COLOUR,
    COLOURS,
    DIGITS,
    GRID,
    LETTERS,
    PLACES,
    SHAPE,
    SHAPES,
    SIZE,
    SIZES,
    Scene,
    Thing,
    canonical_patch,
)


def random_scene(rng: random.Random) -> Scene:
    """A scene of shapes (four in five), of printed text, or rarely of nothing."""
    form = rng.random()
    if form < 0.03:
        return Scene()
    return text_scene(rng) if form < 0.22 else shape_scene(rng)


def shape_scene(rng: random.Random, number: int = 0) -> Scene:
    """One to three shapes in different places; attributes often repeat within a scene."""
    number = number or rng.choices((1, 2, 3), (20, 40, 40))[0]
    things: list[Thing] = []
    for place in rng.sample(range(len(PLACES)), number):
        shape, colour = rng.randrange(len(SHAPES)), rng.randrange(len(COLOURS))
        if things and rng.random() < 0.15:
            shape = rng.choice(things).shape
        if things and rng.random() < 0.15:
            colour = rng.choice(things).colour
        things.append(Thing(shape, colour, rng.randrange(len(SIZES)), place))
    return Scene(tuple(things))


def text_scene(rng: random.Random, text: str = "") -> Scene:
    """One line of text: 1 to 4 digits or 1 to 6 upper-case letters unless `text` is given."""
    if not text:
        text = random_text(rng)
    width = len(text)
    step = rng.uniform(1.05, min(2.4, max(1.06, (GRID - 1) / width))) / GRID
    left = rng.uniform(0.5 / GRID, max(0.5 / GRID, 1 - 0.5 / GRID - step * (width - 1)))
    top, tilt = rng.uniform(0.1, 0.9), rng.gauss(0, 0.004)
    centres = tuple((left + step * i, min(0.99, max(0.01, top + tilt * i))) for i in range(width))
    return Scene(text=text, centres=centres)


def random_text(rng: random.Random) -> str:
    """1 to 4 digits or 1 to 6 upper-case letters, longer ones more often."""
    if rng.random() < 0.45:
        return "".join(rng.choices(DIGITS, k=rng.choices((1, 2, 3, 4), (2, 3, 4, 5))[0]))
    return "".join(rng.choices(LETTERS, k=rng.choices(range(1, 7), (2, 3, 4, 5, 6, 6))[0]))


def labels(scene: Scene) -> NDArray[np.uint8]:
    """The label grid `u8[GRID, GRID, 4]` of `scene`; see `training.world`."""
    grid = np.zeros((GRID, GRID, 4), dtype=np.uint8)
    for thing in scene.things:
        row, column = canonical_patch(thing.place)
        grid[row, column, SHAPE] = thing.shape + 1
        grid[row, column, COLOUR] = thing.colour + 1
        grid[row, column, SIZE] = thing.size + 1
    for character, (x, y) in zip(scene.text, scene.centres, strict=True):
        row, column = min(GRID - 1, int(y * GRID)), min(GRID - 1, int(x * GRID))
        grid[row, column, CHARACTER] = CHARACTERS.index(character) + 1
    return grid
