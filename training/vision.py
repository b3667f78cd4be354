"""Trains the vision tower and the connector to put oracle vectors into the latents.

`python -m training.vision --run DIR --pictures N` can be stopped and started again: it goes on
from DIR/checkpoint.pt with the same pictures in the same order. DIR/log.jsonl holds the curve and
DIR/latest.safetensors the weights so far, DIR/final.safetensors those at the end.
"""

import json
import math
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from .draw.stream import Pictures, Stream
from .model import LATENTS, TokenizerFacts, build_model
from .muon import Muon
from .precision import mixed, with_float32_attention
from .vision_loss import Heads, losses
from .vision_metrics import held_out, measure, pixels
from .world import GRID

BATCH = 16
# Pictures are drawn ahead in chunks; none is seen twice.
CHUNK = 2048
STEPS_A_CHUNK = CHUNK // BATCH
PICTURES = 96 * CHUNK
LEARNING_RATE = 1.2e-3
WARM_UP = 100
HOLD = 0.4
LAST_RATE = 0.01
LOG_EVERY = 100
SAVE_EVERY = 512
MEASURE_EVERY = 768
# The text side takes no part here: any tokenizer will do.
_FACTS = TokenizerFacts(64, 5, 3, 1, 2)


class VisionSide(nn.Module):
    """The vision tower and the connector of the embedded model, with the names of their weights."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        whole = build_model(seed, _FACTS)
        with_float32_attention(whole)
        model = whole.model
        self.vision_model = model.vision_model
        self.connector = model.connector

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches `f32[B, L, V]` and latents `f32[B, L, T]` of images `f32[B, 3, S, S]`."""
        mask = torch.ones(len(images), GRID, GRID, dtype=torch.bool)
        with mixed():
            patches = self.vision_model(images, patch_attention_mask=mask).last_hidden_state
            latents = self.connector(patches, attention_mask=mask.view(-1, LATENTS))
        return patches.float(), latents.float()

    def export(self, path: Path) -> None:
        """Writes the float32 weights under the names that they have in the whole model."""
        weights = {f"model.{name}": value.detach() for name, value in self.state_dict().items()}
        partial = path.with_suffix(".partial")
        save_file(weights, partial)
        partial.replace(path)


def build_optimizers(side: nn.Module, heads: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers and of the modality projection, AdamW for the rest."""
    named = list(side.named_parameters())
    hidden = [p for n, p in named if p.ndim == 2 and ("layers" in n or "modality" in n)]
    chosen = {id(parameter) for parameter in hidden}
    rest = [p for p in (*side.parameters(), *heads.parameters()) if id(p) not in chosen]
    adamw = torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(hidden, LEARNING_RATE), adamw]


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, hold, then a cosine down to LAST_RATE of the rate."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    decay = max(0.0, (step / steps - HOLD) / (1 - HOLD))
    return LEARNING_RATE * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * decay)) / 2)


def batches(seed: int, pictures: int, first_step: int) -> Iterator[Pictures]:
    """All batches from `first_step` on: the same for the same seed, wherever it starts."""
    first_chunk = first_step // STEPS_A_CHUNK
    chunks = pictures // CHUNK
    stream = Stream(seed, first_chunk * CHUNK, pictures)
    reader = ThreadPoolExecutor(1)
    try:
        # The next chunk is read, and so drawn, while this one is trained on.
        ahead = reader.submit(stream.read, CHUNK)
        for chunk in range(first_chunk, chunks):
            drawn = ahead.result()
            if chunk + 1 < chunks:
                ahead = reader.submit(stream.read, CHUNK)
            skip = first_step - chunk * STEPS_A_CHUNK if chunk == first_chunk else 0
            for at in range(skip * BATCH, CHUNK, BATCH):
                yield Pictures(*(part[at : at + BATCH] for part in drawn))
    finally:
        stream.end()
        reader.shutdown()
        stream.close()


def train(run: Path, pictures: int, seed: int = 1, measured: int = 128) -> dict[str, float]:
    """Trains on `pictures` drawn pictures, from DIR/checkpoint.pt if there; returns the figures.

    Raises ValueError if `pictures` is no whole number of chunks.
    """
    if pictures < CHUNK or pictures % CHUNK:
        raise ValueError(f"pictures must be a multiple of {CHUNK}, not {pictures}")
    run.mkdir(parents=True, exist_ok=True)
    steps = pictures // CHUNK * STEPS_A_CHUNK
    torch.manual_seed(seed)
    side = VisionSide(seed)
    heads = Heads(side.vision_model.config.hidden_size)
    parameters = [*side.parameters(), *heads.parameters()]
    optimizers = build_optimizers(side, heads)
    checkpoint = run / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if (state["seed"], state["pictures"]) != (seed, pictures):
            raise ValueError(f"{checkpoint} belongs to another seed or number of pictures")
        side.load_state_dict(state["side"])
        heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    sets = held_out(measured)
    log = Log(run / "log.jsonl")
    start = time.monotonic()
    bar = tqdm(batches(seed, pictures, first), total=steps, initial=first, unit="step")
    for step, batch in enumerate(bar, first):
        rate = learning_rate(step, steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        patches, latents = side(pixels(batch.images))
        labels, neighbours, covers = (torch.from_numpy(grid).long() for grid in batch[1:])
        parts = losses(
            heads,
            patches=patches,
            latents=latents,
            labels=labels,
            neighbours=neighbours,
            covers=covers,
        )
        loss = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        side.zero_grad()
        heads.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        log.add({name: part.item() for name, part in parts.items()})
        done = step + 1
        if done % LOG_EVERY == 0:
            means = log.write(done, time.monotonic() - start, rate)
            bar.set_postfix(loss=f"{sum(means.values()):.3f}", char=f"{means['character']:.3f}")
        if done % SAVE_EVERY == 0 or done == steps:
            _save(
                checkpoint,
                side=side,
                heads=heads,
                optimizers=optimizers,
                step=done,
                seed=seed,
                pictures=pictures,
            )
            side.export(run / "latest.safetensors")
        if done % MEASURE_EVERY == 0:
            log.line({"step": done, **measure(lambda x: side(x)[1], sets)})
    side.export(run / "final.safetensors")
    figures = measure(lambda x: side(x)[1], held_out(4 * measured, first_seed=700_000))
    (run / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _save(
    path: Path,
    *,
    side: nn.Module,
    heads: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
    seed: int,
    pictures: int,
) -> None:
    state = {
        "side": side.state_dict(),
        "heads": heads.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "seed": seed,
        "pictures": pictures,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


class Log:
    """A JSONL file of mean losses and of measurements."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: list[dict[str, float]] = []

    def add(self, parts: dict[str, float]) -> None:
        """Takes the losses of one step."""
        self._parts.append(parts)

    def write(self, step: int, seconds: float, rate: float) -> dict[str, float]:
        """Writes and returns the means since the last time."""
        names = self._parts[0]
        means = {name: float(np.mean([parts[name] for parts in self._parts])) for name in names}
        self._parts.clear()
        self.line({"step": step, "seconds": seconds, "rate": rate, **means})
        return means

    def line(self, entry: dict[str, float]) -> None:
        """Appends one entry."""
        rounded = {name: round(value, 5) for name, value in entry.items()}
        with self._path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description="Train the vision side of the embedded model.")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--pictures", type=int, default=PICTURES, help=f"multiple of {CHUNK}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(train(options.run, options.pictures, options.seed), indent=2))


if __name__ == "__main__":
    main()
