"""The requests of a measurement: drawn pictures, questions and lengths, the same for a seed."""

import hashlib
import random

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from vlserve.types import Image, Message, Request, Role, SamplingParams

SIZES = ((320, 240), (240, 320), (200, 200), (640, 480), (480, 160))
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black")
QUESTIONS = (
    "Describe the picture.",
    "How many shapes are there?",
    "What colour is the circle?",
    "Is there a red square in the picture?",
    "What is at the top left, and what is at the bottom right? Answer in one sentence.",
)
MIN_TOKENS, MAX_TOKENS = 8, 96


def picture(rng: random.Random) -> Image:
    """One to three shapes on a light ground."""
    width, height = rng.choice(SIZES)
    drawn = PILImage.new("RGB", (width, height), rng.choice(("white", "lightgray", "beige")))
    draw = ImageDraw.Draw(drawn)
    for _ in range(rng.randint(1, 3)):
        size = rng.randint(min(width, height) // 5, min(width, height) // 3)
        left, top = rng.randint(0, width - size), rng.randint(0, height - size)
        box = (left, top, left + size, top + size)
        shape = rng.choice((draw.ellipse, draw.rectangle))
        shape(box, fill=rng.choice(COLOURS))
    pixels = np.asarray(drawn)
    return Image(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())


def requests(seed: int, num_requests: int) -> list[Request]:
    """Questions about 0 to 3 pictures, mostly one; some are second questions."""
    rng = random.Random(seed)
    return [_request(rng, f"bench-{index}") for index in range(num_requests)]


def _request(rng: random.Random, name: str) -> Request:
    num_pictures = rng.choice((0, 1, 1, 1, 1, 1, 2, 3))
    content: list[str | Image] = [picture(rng) for _ in range(num_pictures)]
    turns = [Message(Role.USER, (*content, rng.choice(QUESTIONS)))]
    if rng.random() < 0.25:
        turns.append(Message(Role.ASSISTANT, ("A large red circle at the top left.",)))
        turns.append(Message(Role.USER, (rng.choice(QUESTIONS),)))
    return Request(
        name, tuple(turns), SamplingParams(max_tokens=rng.randint(MIN_TOKENS, MAX_TOKENS))
    )
