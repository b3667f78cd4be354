"""How well the latents of unseen pictures say what the pictures show."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .draw import Renderer, picture, reduced
from .draw.fonts import Fonts
from .draw.grid import STEPS, label_grid, neighbour_grid
from .draw.layout import LONGEST_SIDE, Kind
from .oracle import decode
from .world import CHARACTER, CHARACTERS, Scene

Encode = Callable[[torch.Tensor], torch.Tensor]


class HeldOut(NamedTuple):
    """Unseen pictures of one sort: `images: u8[N, S, S, 3]` and what each shows."""

    images: NDArray[np.uint8]
    scenes: tuple[Scene, ...]


# Name, renderer, fonts and sides of each sort of unseen picture.
SORTS: tuple[tuple[str, Renderer, Fonts, tuple[int, int]], ...] = (
    ("training", "training", "training", LONGEST_SIDE),
    ("font", "training", "held-out", LONGEST_SIDE),
    ("renderer", "resvg", "training", (200, 800)),
)
KINDS: tuple[Kind, ...] = ("things", "digits", "letters")


def held_out(count: int, first_seed: int = 500_000) -> dict[str, HeldOut]:
    """`count` unseen pictures of every kind for every sort, keyed "sort kind"."""
    sets = {}
    for sort, renderer, fonts, longest in SORTS:
        for kind in KINDS:
            seeds = range(first_seed, first_seed + count)
            drawn = [picture(seed, kind, renderer, fonts, longest) for seed in seeds]
            images = np.stack([reduced(image) for image, _ in drawn])
            sets[f"{sort} {kind}"] = HeldOut(images, tuple(scene for _, scene in drawn))
    return sets


def pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    """`f32[N, 3, S, S]` from -1 to 1, as the model's image processor gives them."""
    values = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return values.float() / 127.5 - 1


@torch.no_grad()
def measure(encode: Encode, sets: dict[str, HeldOut], batch: int = 64) -> dict[str, float]:
    """Shares from 0 to 1: "whole" pictures read without a fault; single objects or characters."""
    figures = {}
    for name, (images, scenes) in sets.items():
        parts = [
            decode(encode(pixels(images[at : at + batch]))) for at in range(0, len(images), batch)
        ]
        for key, value in score(np.concatenate(parts), scenes).items():
            figures[f"{name} {key}"] = value
    return figures


def score(grids: NDArray[np.uint8], scenes: tuple[Scene, ...]) -> dict[str, float]:
    """Compares decoded label grids with scenes.

    "each": objects or characters found right, once and in place; "whole": pictures with all of
    them right and nothing else (for text: read by columns, the string is right).
    """
    whole = right = total = 0
    for grid, scene in zip(grids, scenes, strict=True):
        if scene.text:
            whole += read(grid) == scene.text
            right += _characters_right(grid, scene)
            total += len(scene.text)
        else:
            truth = label_grid(scene)
            whole += bool((grid == truth).all())
            at = truth[..., 0] > 0
            right += int((grid[at] == truth[at]).all(-1).sum())
            total += len(scene.things)
    return {"each": right / total, "whole": whole / len(scenes)}


def read(grid: NDArray[np.uint8]) -> str:
    """The characters of a label grid from left to right, within a column from above."""
    columns, rows = np.nonzero(grid[..., CHARACTER].T)
    return "".join(
        CHARACTERS[grid[row, column, CHARACTER] - 1]
        for row, column in zip(rows, columns, strict=True)
    )


def _characters_right(grid: NDArray[np.uint8], scene: Scene) -> int:
    truth = label_grid(scene)[..., CHARACTER]
    neighbours = neighbour_grid(scene)
    found = grid[..., CHARACTER]
    right = 0
    for row, column in zip(*np.nonzero(truth), strict=True):
        places = [found[row, column]]
        if neighbours[row, column]:
            down, aside = STEPS[neighbours[row, column] - 1]
            places.append(found[row + down, column + aside])
        right += sorted(places) == sorted([truth[row, column], *[0] * (len(places) - 1)])
    return right
