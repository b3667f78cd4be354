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
    """A scene of shapes (two in three), of printed text, or rarely of nothing."""
    form = rng.random()
    if form < 0.03:
        return Scene()
    return text_scene(rng) if form < 0.35 else shape_scene(rng)


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
    """One line of printed text, somewhat tilted now and then; random unless `text` is given."""
    text = text or random_text(rng)
    number = len(text)
    widest = max(1.06, min(5.0, (GRID - 1) / max(1, number - 1)))
    step = rng.uniform(1.05, rng.choice((min(2.4, widest), widest))) / GRID
    step = min(step, (1 - 0.9 / GRID) / max(1, number - 1))
    half = step * (number - 1) / 2
    middle = rng.uniform(half + 0.45 / GRID, 1 - half - 0.45 / GRID)
    tilt = rng.gauss(0, 0.05) * step if rng.random() < 0.5 else 0.0
    reach = abs(tilt) * (number - 1) / 2 + 0.05
    height = rng.uniform(reach, 1 - reach)
    offsets = [index - (number - 1) / 2 for index in range(number)]
    centres = tuple((middle + step * offset, height + tilt * offset) for offset in offsets)
    return Scene(text=text, centres=centres)


def random_text(rng: random.Random) -> str:
    """1 to 6 digits, letters or both, most often 1 to 4 digits or 1 to 6 letters.

    A third repeat few characters: who reads by looking for what follows the last one, instead of
    by place, fails there.
    """
    alphabet, lengths = rng.choices(
        ((DIGITS, (2, 3, 4, 5, 2, 1)), (LETTERS, (2, 3, 4, 5, 6, 6)), (CHARACTERS, (1,) * 6)),
        (42, 50, 8),
    )[0]
    if rng.random() < 0.33:
        alphabet = "".join(rng.sample(alphabet, rng.randint(1, 3)))
    return "".join(rng.choices(alphabet, k=rng.choices(range(1, 7), lengths)[0]))


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
