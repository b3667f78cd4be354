"""Oracle vectors: what an ideal vision side would put into each latent, and how to read it back."""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .world import CHARACTER, CHARACTERS, COLOUR, COLOURS, GRID, SHAPE, SHAPES, SIZE, SIZES

TEXT_WIDTH = 128
CONCEPT_SEED = 2024
# A token that names a concept starts with this times its concept row as its embedding.
TOKEN_SCALE = 0.5

# Concepts in table order: first row of each group.
SHAPE_ROW = 0
COLOUR_ROW = SHAPE_ROW + len(SHAPES)
SIZE_ROW = COLOUR_ROW + len(COLOURS)
CHARACTER_ROW = SIZE_ROW + len(SIZES)
NOTHING_ROW = CHARACTER_ROW + len(CHARACTERS)
CONCEPTS = (*SHAPES, *COLOURS, *SIZES, *CHARACTERS, "nothing")

SIZE_WEIGHT = 0.7
CHARACTER_WEIGHT = 1.5
POSITION_WEIGHT = 0.8


class Tables(NamedTuple):
    """`concepts: f32[len(CONCEPTS), TEXT_WIDTH]`, `rows` and `columns: f32[GRID, TEXT_WIDTH]`.

    All rows of the three tables are orthogonal to each other and have a root mean square of 1.
    """

    concepts: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor


@cache
def tables() -> Tables:
    """The concept, row and column tables: the same on every machine up to rounding."""
    count = len(CONCEPTS) + 2 * GRID
    random = np.random.default_rng(CONCEPT_SEED).standard_normal((TEXT_WIDTH, count))
    q, r = np.linalg.qr(random)
    # QR is unique only up to the sign of each column; fix it so that every LAPACK agrees.
    basis = (q * np.sign(np.diag(r))).T * TEXT_WIDTH**0.5
    table = torch.from_numpy(basis.astype(np.float32))
    return Tables(*torch.split(table, [len(CONCEPTS), GRID, GRID]))


def concept_table() -> torch.Tensor:
    """`f32[len(CONCEPTS), TEXT_WIDTH]`: one row a concept, in the order of CONCEPTS."""
    return tables().concepts.clone()


def token_rows() -> torch.Tensor:
    """`f32[len(CONCEPTS), TEXT_WIDTH]`: initial text embeddings of the tokens of the concepts."""
    return TOKEN_SCALE * tables().concepts


def oracle(labels: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """Ideal latents `f32[B, GRID * GRID, TEXT_WIDTH]` of label grids `u8[B, GRID, GRID, 4]`.

    Raises ValueError on another shape.
    """
    grid = torch.as_tensor(labels).long()
    if grid.ndim != 4 or grid.shape[1:] != (GRID, GRID, 4):
        raise ValueError(f"labels must be [B, {GRID}, {GRID}, 4], not {list(grid.shape)}")
    concepts, rows, columns = tables()
    shape, character = grid[..., SHAPE, None], grid[..., CHARACTER, None]
    thing = (
        concepts[SHAPE_ROW - 1 + grid[..., SHAPE]]
        + concepts[COLOUR_ROW - 1 + grid[..., COLOUR]]
        + SIZE_WEIGHT * concepts[SIZE_ROW - 1 + grid[..., SIZE]]
    )
    printed = CHARACTER_WEIGHT * concepts[CHARACTER_ROW - 1 + grid[..., CHARACTER]]
    vector = torch.where(character > 0, printed, concepts[NOTHING_ROW])
    vector = torch.where(shape > 0, thing, vector)
    vector = vector + POSITION_WEIGHT * (rows[:, None] + columns[None])
    vector = vector / vector.square().mean(-1, keepdim=True).sqrt()
    return vector.reshape(len(grid), GRID * GRID, TEXT_WIDTH)


def decode(latents: torch.Tensor) -> NDArray[np.uint8]:
    """Label grids `u8[B, GRID, GRID, 4]` nearest to latents `f32[B, GRID * GRID, TEXT_WIDTH]`."""
    scores = latents.float() @ tables().concepts.T
    shape = scores[..., SHAPE_ROW:COLOUR_ROW].max(-1)
    colour = scores[..., COLOUR_ROW:SIZE_ROW].max(-1)
    size = scores[..., SIZE_ROW:CHARACTER_ROW].max(-1)
    character = scores[..., CHARACTER_ROW:NOTHING_ROW].max(-1)
    thing_score = (shape.values + colour.values) / 2
    printed_score = character.values / CHARACTER_WEIGHT
    kind = torch.stack([scores[..., NOTHING_ROW], thing_score, printed_score], -1).argmax(-1)
    grid = torch.zeros(*kind.shape, 4, dtype=torch.uint8)
    is_thing, is_printed = (kind == 1), (kind == 2)
    for column, best in ((SHAPE, shape), (COLOUR, colour), (SIZE, size)):
        grid[..., column] = (best.indices + 1) * is_thing
    grid[..., CHARACTER] = (character.indices + 1) * is_printed
    result: NDArray[np.uint8] = grid.reshape(-1, GRID, GRID, 4).numpy()
    return result
