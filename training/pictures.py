"""Shards of drawn pictures with their scenes, kept on disk for the joint stage."""

import json
import os
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from training.draw import picture, reduced, render
from training.draw.layout import Kind, sample
from training.world import Scene, Thing

SHARD = 512
# Seeds of this stage start here, far from those of the vision stage and of the evaluation.
FIRST_SEED = 1 << 32
_KINDS: tuple[Kind, ...] = ("things", "digits", "letters", "mixed")
_SHARES = (56, 16, 26, 2)
_EMPTY = 0.03


class Shard(NamedTuple):
    """`pictures: u8[SHARD, IMAGE_SIZE, IMAGE_SIZE, 3]` as the image processor resizes them."""

    pictures: torch.Tensor
    scenes: list[Scene]


def _draw(seed: int) -> tuple[np.ndarray, Scene]:
    rng = random.Random(seed)
    if rng.random() < _EMPTY:
        layout = replace(sample(seed, "things"), figures=(), scene=Scene())
        return reduced(render(layout, "training", seed)), layout.scene
    image, scene = picture(seed, rng.choices(_KINDS, _SHARES)[0])
    return reduced(image), scene


def shard(folder: Path, index: int) -> Shard:
    """Shard number `index`, read from `folder` or else drawn and written there."""
    path = folder / f"{index:05d}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        first = FIRST_SEED + index * SHARD
        drawn = [_draw(seed) for seed in range(first, first + SHARD)]
        pixels = torch.from_numpy(np.stack([pixels for pixels, _ in drawn]))
        written = json.dumps([asdict(scene) for _, scene in drawn])
        temporary = path.with_suffix(f".{os.getpid()}")
        save_file({"pictures": pixels}, temporary, {"scenes": written})
        temporary.replace(path)
    with safe_open(path, "pt") as file:
        scenes = [_scene(**entry) for entry in json.loads(file.metadata()["scenes"])]
        return Shard(file.get_tensor("pictures"), scenes)


def _scene(things: list[dict[str, int]], text: str, centres: list[list[float]]) -> Scene:
    pairs = tuple((x, y) for x, y in centres)
    return Scene(tuple(Thing(**thing) for thing in things), text, pairs)


def pixel_values(pictures: torch.Tensor) -> torch.Tensor:
    """`f32[N, 3, S, S]` in -1 to 1 of `u8[N, S, S, 3]`, as the image processor scales them."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
