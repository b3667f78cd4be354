"""The joint stage: both sides plugged together on drawn pictures.

First the vision side is frozen and the text side learns to read what it really says; then both
learn together, the vision side at a rate that cannot break it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import Idefics2ForConditionalGeneration

from training.language import answer_loss, answers_right, text_parameters
from training.model import build_model
from training.pictures import SHARD, pixel_values, shard
from training.precision import mixed, with_float32_attention
from training.prompts import PromptWriter
from training.rows import collate, random_row
from training.run import Run, Schedule, load_weights
from training.tokenizer import facts, load_tokenizer
from training.world import Scene

SEED = 23
ROWS = 16
# Of pairs of pictures, and of conversations.
SHARE = 0.12


@dataclass(frozen=True)
class Phase:
    """One phase: its schedule, the first shard it takes, and the vision rate as a share."""

    name: str
    schedule: Schedule
    first_shard: int
    vision_share: float = 0.0


FROZEN = Phase("frozen", Schedule(steps=256, rate=1e-3, warmup=30, decay=0.3), 0)
TOGETHER = Phase("together", Schedule(steps=1536, rate=1e-3, warmup=30, decay=0.9), 8, 0.2)


def vision_parameters(model: Idefics2ForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The parameters of vision tower and connector by their names in the whole model."""
    text = text_parameters(model)
    return {name: p for name, p in model.named_parameters() if name not in text}


def latents(model: Idefics2ForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """`f32[N, L, D]` of pixel values `f32[N, 3, S, S]`."""
    mask = torch.ones(len(pixels), 1, *pixels.shape[-2:], dtype=torch.bool)
    with mixed():
        seen = torch.stack(model.model.get_image_features(pixels[:, None], mask).pooler_output)
    return seen.float()


def _batches(folder: Path, phase: Phase, step: int) -> Iterator[tuple[torch.Tensor, list[Scene]]]:
    per_shard = SHARD // ROWS
    while True:
        index, at = divmod(step, per_shard)
        current = shard(folder, phase.first_shard + index)
        for first in range(at * ROWS, SHARD, ROWS):
            yield current.pictures[first : first + ROWS], current.scenes[first : first + ROWS]
            step += 1


def train_joint(
    phase: Phase, tokenizer_folder: Path, start: list[Path], folder: Path, shards: Path
) -> Path:
    """Train one phase from the weights in the files `start`; returns the file of the result."""
    tokenizer = load_tokenizer(tokenizer_folder)
    model = build_model(SEED, facts(tokenizer)).train()
    with_float32_attention(model)
    weights = {name: tensor for path in start for name, tensor in load_weights(path).items()}
    model.load_state_dict(weights, strict=True)
    parameters = dict(model.named_parameters())
    slow = vision_parameters(model)
    if not phase.vision_share:
        for parameter in slow.values():
            parameter.requires_grad_(False)
    run = Run(
        phase.name, folder, parameters, phase.schedule, slow=slow, slow_share=phase.vision_share
    )
    writer = PromptWriter(tokenizer)
    source: Iterator[tuple[torch.Tensor, list[Scene]]] | None = None
    for step in run.steps():
        source = source or _batches(shards, phase, step)
        pictures, scenes = next(source)
        rng = random.Random(f"{phase.name} {SEED} {step}")
        batch = collate([random_row(writer, scenes, index, rng, SHARE) for index in range(ROWS)])
        with torch.set_grad_enabled(bool(phase.vision_share)):
            seen = latents(model, pixel_values(pictures))
        loss, token_right = answer_loss(model, batch, seen[batch.pictures])
        run.update(step, loss)
        if step % 10 == 0:
            run.log(step, loss=round(loss.item(), 4), exact=answers_right(batch, token_right))
    return run.weights_file
