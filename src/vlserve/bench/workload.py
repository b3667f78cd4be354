"""What a measurement asks: pictures, words and lengths, the same for the same seed."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from vlserve.media.picture import png
from vlserve.types import ChatRequest, ImageRef, Message, Role, SamplingParams

CELL: Final = 16  # pixels: a picture of random patches, which PNG makes small
WORDS: Final = (
    "a", "and", "at", "below", "big", "blue", "bright", "circle", "colour", "corner", "count",
    "dark", "edge", "find", "green", "how", "in", "is", "large", "left", "many", "near", "of",
    "over", "patch", "picture", "red", "right", "row", "see", "shape", "side", "small", "square",
    "the", "there", "top", "under", "what", "where", "which", "yellow",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests without end, each told from its index and the seed alone.

    A picture has one of `image_sizes` (width, height in pixels), drawn by chance, and is a fresh
    one in every request unless `is_same_picture`. `least_tokens` above 0 draws each request's
    longest answer between that and `max_tokens`. `ignore_eos` asks for exactly so many.
    """

    image_sizes: tuple[tuple[int, int], ...] = ((640, 480),)
    num_images: int = 1
    is_same_picture: bool = False
    prompt_words: int = 12
    max_tokens: int = 64
    ignore_eos: bool = False
    seed: int = 0
    model: str = ""
    least_tokens: int = 0

    def request(self, index: int) -> ChatRequest:
        """The request of that number."""
        rng = np.random.default_rng([self.seed, index])
        words = " ".join(rng.choice(WORDS, self.prompt_words))
        seen = np.random.default_rng([self.seed]) if self.is_same_picture else rng
        pictures = [ImageRef(self._picture(seen)) for _ in range(self._images())]
        longest = self.max_tokens
        if self.least_tokens:
            longest = int(rng.integers(self.least_tokens, self.max_tokens + 1))
        sampling = SamplingParams(max_tokens=longest, min_tokens=longest if self.ignore_eos else 0)
        content: tuple[str | ImageRef, ...] = (*pictures, f"{words}?")
        return ChatRequest((Message(Role.USER, content),), sampling, self.model)

    def _images(self) -> int:
        return self.num_images if self.image_sizes else 0

    def _picture(self, rng: np.random.Generator) -> bytes:
        width, height = self.image_sizes[rng.integers(len(self.image_sizes))]
        cells = rng.integers(0, 256, (-(-height // CELL), -(-width // CELL), 3), np.uint8)
        pixels = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width]
        return png(np.ascontiguousarray(pixels))
