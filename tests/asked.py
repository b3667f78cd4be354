"""Requests of all sorts, the same for the same seed."""

import hashlib
import random

import numpy as np

from vlserve.types import Image, Message, Request, Role, SamplingParams

QUESTIONS = (
    "what is in the picture?",
    "how many shapes are there",
    "describe the scene, please",
    "is there a red circle at the top left?",
    "naïve café, 東京の写真 😀",
    "a",
)


def picture(rng: random.Random) -> Image:
    """Noise over a plain ground, of any size and shape."""
    height, width = rng.randint(16, 120), rng.randint(16, 120)
    noise = np.random.default_rng(rng.getrandbits(32))
    ground = noise.integers(0, 256, (1, 1, 3))
    pixels = (ground + noise.integers(-60, 60, (height, width, 3))).clip(0, 255).astype(np.uint8)
    return Image(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())


def request(
    rng: random.Random, name: str, *, sampling: SamplingParams | None = None, num_images: int = -1
) -> Request:
    """A question with 0 to 3 pictures before, between and after words; sometimes a second turn."""
    count = rng.randint(0, 3) if num_images < 0 else num_images
    parts: list[str | Image] = [picture(rng) for _ in range(count)]
    parts.insert(rng.randint(0, count), rng.choice(QUESTIONS))
    turns = [Message(Role.USER, tuple(parts))]
    if rng.random() < 0.3:
        turns.insert(0, Message(Role.SYSTEM, ("answer in few words",)))
    if rng.random() < 0.3:
        turns.append(Message(Role.ASSISTANT, ("a red circle",)))
        turns.append(Message(Role.USER, (rng.choice(QUESTIONS),)))
    chosen = sampling or SamplingParams(max_tokens=rng.randint(1, 40))
    return Request(name, tuple(turns), chosen)
