"""Random rows about given scenes, and batches of rows with their block mask."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from training.pairs import ask_pair
from training.prompts import PromptWriter, Row
from training.questions import Turn, ask
from training.style import varied
from training.tokenizer import IMAGE, PAD
from training.world import Scene

TURNS = 8
PAIR_TURNS = 5
TALK_TURNS = 4
NO_PICTURE = "There is no picture."
_SHAPE_KINDS = {
    "describe": 1.5, "colour": 1.0, "shape": 1.0, "count": 1.2, "size": 1.0, "where": 1.0,
    "left_right": 1.8, "yes_no": 1.8, "at": 1.0, "read": 0.3,
}  # fmt: skip
_TEXT_KINDS = {
    "read": 5.0, "describe": 1.2, "count": 0.2, "colour": 0.2, "shape": 0.2, "size": 0.2,
    "where": 0.2, "yes_no": 0.6, "at": 0.2,
}  # fmt: skip
_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a careful assistant that answers questions about pictures.",
    "Answer briefly.",
    "You describe images.",
    "Be concise and truthful.",
)


class Batch(NamedTuple):
    """Rows side by side: `i64[B, T]` ids, positions and targets, `f32[B, T]` weights,
    `bool[B, 1, T, T]` mask (true where a query may look), and the pictures of all rows in order.

    `targets[b, t]` is the token after t, counted only where `weights[b, t] > 0`.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor
    pictures: list[int]


def question(scene: Scene, rng: random.Random) -> Turn:
    """A question of a kind that suits `scene`, as someone may type it."""
    kinds = _TEXT_KINDS if scene.text else _SHAPE_KINDS
    while True:
        turn = ask(scene, rng.choices(list(kinds), list(kinds.values()))[0], rng)
        if turn is not None:
            return Turn(turn.form, varied(turn.question, rng), turn.answer)


def random_row(
    writer: PromptWriter, scenes: Sequence[Scene], first: int, rng: random.Random, share: float
) -> Row:
    """A row about scene `first`: packed turns, or (a `share` each) two pictures or a talk."""
    form = rng.random()
    other = rng.randrange(len(scenes))
    if form < share:
        asked = [ask_pair((scenes[first], scenes[other]), rng) for _ in range(PAIR_TURNS)]
        turns = [(varied(turn.question, rng), turn.answer) for turn in asked]
        return writer.packed((first, other), turns)
    if form < 2 * share:
        return _talk(writer, scenes, (first, other), rng)
    made = [question(scenes[first], rng) for _ in range(TURNS)]
    return writer.packed((first,), [(turn.question, turn.answer) for turn in made])


def _talk(
    writer: PromptWriter, scenes: Sequence[Scene], pair: tuple[int, int], rng: random.Random
) -> Row:
    system = rng.choice(_SYSTEMS) if rng.random() < 0.3 else ""
    second_picture = rng.randrange(1, TALK_TURNS) if rng.random() < 0.25 else TALK_TURNS
    without = rng.random() < 0.06
    turns: list[tuple[tuple[int, ...], str, str]] = []
    for number in range(TALK_TURNS):
        shown = pair[number >= second_picture]
        turn = question(scenes[shown], rng)
        if without:
            turns.append(((), turn.question, NO_PICTURE))
            continue
        new = (shown,) if number in (0, second_picture) else ()
        turns.append((new, turn.question, turn.answer))
    return writer.conversation(turns, system)


def collate(rows: Sequence[Row]) -> Batch:
    """The rows padded to the longest."""
    length = max(len(row.ids) for row in rows)
    size = (len(rows), length)
    ids = torch.full(size, PAD)
    positions = torch.zeros(size, dtype=torch.long)
    segments = torch.full(size, -1)
    weights = torch.zeros(size)
    for index, row in enumerate(rows):
        number = len(row.ids)
        ids[index, :number] = torch.tensor(row.ids)
        positions[index, :number] = torch.tensor(row.positions)
        segments[index, :number] = torch.tensor(row.segments)
        weights[index, : number - 1] = torch.tensor(row.weights[1:])
    targets = torch.roll(ids, -1, 1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = segments[:, :, None] == segments[:, None, :]
    mask = causal & (same | (segments == 0)[:, None, :])
    pictures = [picture for row in rows for picture in row.pictures]
    return Batch(ids, positions, targets, weights, mask[:, None], pictures)


def image_positions(batch: Batch) -> torch.Tensor:
    """`bool[B, T]`: where latents stand."""
    return batch.ids == IMAGE
