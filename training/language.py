"""The language stage: all kinds of questions on oracle vectors, without one picture."""

import random
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import Idefics2ForConditionalGeneration

from training.matching import start_matching
from training.model import build_model
from training.oracle import oracle
from training.precision import mixed, with_float32_attention
from training.prompts import PromptWriter
from training.rows import Batch, collate, image_positions, random_row
from training.run import Run, Schedule, load_weights
from training.scenes import labels, random_scene
from training.tokenizer import facts, load_tokenizer
from training.world import GRID

SEED = 11
# Few rows a step: what is learned last, to bind words to latents, wants updates, not rows.
ROWS = 6
SCHEDULE = Schedule(steps=4400, rate=2e-3, decay=0.3)
PAIRS_AND_TALKS = 0.085
# The second round: more rows a step, a lower rate, more pairs of pictures and conversations.
REFINE_ROWS = 12
REFINE_SCHEDULE = Schedule(steps=5200, rate=1.5e-3, warmup=50, decay=0.9)
REFINE_PAIRS_AND_TALKS = 0.15


def text_parameters(model: Idefics2ForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The parameters of the text side by their names in the whole model."""
    named = model.named_parameters()
    return {k: p for k, p in named if k.startswith(("model.text_model.", "lm_head."))}


def imperfect(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Oracle latents `f32[B, L, D]` as a real vision side gives them: mixed, smeared, noisy."""
    number, length, width = latents.shape

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    share = uniform(0, 0.3, number, length, 1) * (uniform(0, 1, number, length, 1) < 0.25)
    others = latents[torch.randperm(number, generator=generator)]
    mixed = torch.lerp(latents, others, share)
    grid = mixed.view(number, GRID, GRID, width)
    for axis in (1, 2):
        for shift in (1, -1):
            smear = uniform(0, 0.25, number, 1, 1, 1) * (uniform(0, 1, number, 1, 1, 1) < 0.25)
            grid = grid + smear * torch.roll(grid, shift, axis)
    mixed = grid.reshape(number, length, width)
    noise = torch.randn(latents.shape, generator=generator)
    mixed = mixed + uniform(0.02, 0.4, number, 1, 1) * noise
    return mixed / mixed.square().mean(-1, keepdim=True).sqrt()


def answer_loss(
    model: Idefics2ForConditionalGeneration, batch: Batch, latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted cross entropy of the answers, and `bool[N]`: which answer tokens came out first.

    `latents: f32[P, L, D]`, one entry for every entry of `batch.pictures`.
    """
    embedded = model.model.text_model.embed_tokens(batch.ids)
    where = image_positions(batch)[..., None].expand_as(embedded)
    embedded = embedded.masked_scatter(where, latents.to(embedded.dtype))
    counted = batch.weights > 0
    with mixed():
        hidden = model.model.text_model(
            inputs_embeds=embedded,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[counted]).float()
    targets, weights = batch.targets[counted], batch.weights[counted]
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum(), logits.argmax(-1) == targets


def answers_right(batch: Batch, token_right: torch.Tensor) -> float:
    """The share of answers all of whose tokens came out first (teacher forced)."""
    counted = batch.weights > 0
    right = torch.ones_like(batch.ids, dtype=torch.bool)
    right[counted] = token_right
    wrong = ends = 0
    for row_right, row_counted in zip(right.tolist(), counted.tolist(), strict=True):
        good, inside = True, False
        for is_right, is_counted in zip([*row_right, True], [*row_counted, False], strict=True):
            if is_counted:
                good, inside = good and is_right, True
            elif inside:
                ends, wrong = ends + 1, wrong + (not good)
                good, inside = True, False
    return 1 - wrong / ends


def _train(
    run: Run,
    model: Idefics2ForConditionalGeneration,
    tokenizer: Tokenizer,
    number: int,
    share: float,
) -> Path:
    """Train on `number` rows a step, each `share` of them pairs and conversations."""
    writer = PromptWriter(tokenizer)
    for step in run.steps():
        rng = random.Random(f"{run.name} {SEED} {step}")
        generator = torch.Generator().manual_seed(SEED * 1_000_000 + step)
        scenes = [random_scene(rng) for _ in range(number)]
        batch = collate([random_row(writer, scenes, at, rng, share) for at in range(number)])
        latents = imperfect(oracle(np.stack([labels(scene) for scene in scenes])), generator)
        loss, token_right = answer_loss(model, batch, latents[batch.pictures])
        run.update(step, loss)
        if step % 10 == 0:
            run.log(step, loss=round(loss.item(), 4), exact=answers_right(batch, token_right))
    return run.weights_file


def train_language(tokenizer_folder: Path, folder: Path) -> Path:
    """Train the text side and return the file of its weights; goes on where it stopped."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(tokenizer_folder)
    model = build_model(SEED, facts(tokenizer)).train()
    with_float32_attention(model)
    start_matching(model, SEED)
    run = Run("language", folder, text_parameters(model), SCHEDULE)
    return _train(run, model, tokenizer, ROWS, PAIRS_AND_TALKS)


def refine_language(tokenizer_folder: Path, start: Path, folder: Path) -> Path:
    """The second round, from the weights in the file `start`."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(tokenizer_folder)
    model = build_model(SEED, facts(tokenizer)).train()
    with_float32_attention(model)
    model.load_state_dict(load_weights(start), strict=False)
    run = Run("refined", folder, text_parameters(model), REFINE_SCHEDULE)
    return _train(run, model, tokenizer, REFINE_ROWS, REFINE_PAIRS_AND_TALKS)


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description="Train the text side of the embedded model.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tokenizer.json")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    options = parser.parse_args()
    first = train_language(options.tokenizer, options.run / "language")
    refine_language(options.tokenizer, first, options.run / "refined")


if __name__ == "__main__":
    main()
