"""What the vision side learns from: dense labels on every latent and on every patch."""

import torch
from torch import nn
from torch.nn import functional

from .draw.grid import STEPS
from .oracle import TEXT_WIDTH, oracle
from .world import CHARACTER, CHARACTERS, COLOUR, COLOURS, GRID, SHAPE, SHAPES, SIZE, SIZES

# In the oracle's part a latent with nothing counts this much against one with something; in the
# others all with nothing together count as much as all with something.
NOTHING_WEIGHT = 0.15
# Colours and sizes come from few latents with steep gradients: at full weight they drown the
# characters, whose learning then never starts.
WEIGHTS = {
    "shape": 1.0,
    "colour": 0.5,
    "size": 0.5,
    "character": 1.5,
    "oracle": 3.0,
    "cover": 0.5,
}


class Heads(nn.Module):
    """Read-outs that exist in training only: of the latents, and of the vision tower's patches."""

    def __init__(self, vision_width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(TEXT_WIDTH, len(SHAPES) + 1)
        self.colour = nn.Linear(TEXT_WIDTH, len(COLOURS) + 1)
        self.size = nn.Linear(TEXT_WIDTH, len(SIZES) + 1)
        self.character = nn.Linear(TEXT_WIDTH, len(CHARACTERS) + 1)
        self.cover = nn.Linear(vision_width, 1 + len(SHAPES) + len(CHARACTERS))
        self.cover_colour = nn.Linear(vision_width, len(COLOURS) + 1)


def losses(
    heads: Heads,
    *,
    patches: torch.Tensor,
    latents: torch.Tensor,
    labels: torch.Tensor,
    neighbours: torch.Tensor,
    covers: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The parts of the loss; their sum is what to minimise.

    `patches: f32[B, L, V]`, `latents: f32[B, L, T]`, the grids `i64` as in `draw.grid`.
    """
    grid = labels.flatten(1, 2)
    thing = grid[..., SHAPE] > 0
    log_character = functional.log_softmax(heads.character(latents), -1)
    character, settled = _character_loss(log_character, grid[..., CHARACTER], neighbours.flatten(1))
    target = grid.clone()
    target[..., CHARACTER] = settled
    weight = torch.where(target.sum(-1) > 0, 1.0, NOTHING_WEIGHT)
    error = (latents - oracle(target.view(-1, GRID, GRID, 4))).square().mean(-1)
    cover = covers.flatten(1, 2)
    parts = {
        "shape": _cross_entropy(heads.shape(latents), grid[..., SHAPE]),
        "colour": _where(heads.colour(latents), grid[..., COLOUR], thing),
        "size": _where(heads.size(latents), grid[..., SIZE], thing),
        "character": character,
        "oracle": (weight * error).sum() / weight.sum(),
        "cover": _cross_entropy(heads.cover(patches), cover[..., 0])
        + 0.2 * _cross_entropy(heads.cover_colour(patches), cover[..., 1]),
    }
    return {name: WEIGHTS[name] * part for name, part in parts.items()}


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    each = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return _balanced(each, target.flatten() > 0)


def _balanced(each: torch.Tensor, something: torch.Tensor) -> torch.Tensor:
    """Mean over those with something plus mean over those with nothing."""
    count = something.sum()
    with_something = (each * something).sum() / (count + 4)
    return with_something + (each * ~something).sum() / (each.numel() - count)


def _where(logits: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits[mask], target[mask], reduction="sum") / (mask.sum() + 8)


def _character_loss(
    log_p: torch.Tensor, target: torch.Tensor, neighbours: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of the printed characters, and the target `[B, L]` that the model itself prefers.

    A character c near the border of patch a may stand in a or in its neighbour b, but in exactly
    one of the two: -log(p_a(c) p_b(nothing) + p_a(nothing) p_b(c)).
    """
    row, a = neighbours.nonzero(as_tuple=True)
    steps = torch.tensor([dy * GRID + dx for dy, dx in STEPS])
    b = a + steps[neighbours[row, a] - 1]
    c = target[row, a]
    here = log_p[row, a, c] + log_p[row, b, 0]
    there = log_p[row, a, 0] + log_p[row, b, c]
    pair = -torch.logaddexp(here, there)

    single = torch.ones_like(target, dtype=torch.bool)
    single[row, a] = False
    single[row, b] = False
    each = -log_p.gather(-1, target[..., None])[..., 0]
    something, nothing = single & (target > 0), single & (target == 0)
    found = ((each * something).sum() + pair.sum()) / (something.sum() + len(pair) + 4)
    loss = found + (each * nothing).sum() / nothing.sum()

    settled = target.clone()
    moves = there > here
    settled[row[moves], a[moves]] = 0
    settled[row[moves], b[moves]] = c[moves]
    return loss, settled
