"""How much memory of a GPU work takes, found by doing the most of it once: the KV cache gets what
is left."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
import torch

from vlserve.engines.native.scheduling.pages import num_pages
from vlserve.engines.native.scheduling.scheduler import Plan, Prefill
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.text.detokenizer import Detokenizer
from vlserve.errors import ServeError
from vlserve.models.base import ModelAdapter
from vlserve.models.features import ImageFeatures
from vlserve.models.prompt import Prompt, PromptImage
from vlserve.settings import HELD_BACK
from vlserve.types import Image, Message, Role, SamplingParams

# Of a square picture, larger than any that a processor here keeps whole; what it makes of it is
# the most that a tower sees at once.
LARGEST_SIDE: Final = 4096
SMALLEST_SIDE: Final = 32


class Meter(Protocol):
    """Measures the memory of a device."""

    def memory(self) -> tuple[int, int]:
        """Free and in all, bytes; what nobody uses counts as free."""

    def peak(self, run: Callable[[], object]) -> int:
        """The most that `run` holds at a time beside what is there, bytes."""


class CudaMeter:
    """The Meter of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def memory(self) -> tuple[int, int]:
        """See Meter."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)

    def peak(self, run: Callable[[], object]) -> int:
        """See Meter."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        run()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before


def bytes_left(free: int, total: int, work_bytes: int) -> int:
    """Bytes that a KV cache may take: nine tenths of the device without what is taken and what
    work takes, never below 0. The last tenth is for recorded steps and what lies between."""
    return max(0, free - int(total * HELD_BACK) - work_bytes)


def longest_prefill(context: int, num_tokens: int) -> Plan:
    """The last `num_tokens` of a prompt of `context` tokens: they look at all before them.

    Its pages are the first one over and over: what is computed means nothing.
    """
    prompt = Prompt(token_ids=(0,) * context)
    sequence = Sequence(
        id="",
        prompt=prompt,
        sampling=SamplingParams(),
        max_new_tokens=1,
        stop_token_ids=frozenset(),
        detokenizer=Detokenizer(lambda ids: ""),
        outbox=asyncio.Queue(),
        pages=[0] * num_pages(context),
    )
    return Plan((), (Prefill(sequence, max(0, context - num_tokens), context),))


def largest_picture(adapter: ModelAdapter, context: int) -> PromptImage | None:
    """The tower's inputs for the largest picture that fits a context; None where none does."""
    side = LARGEST_SIDE
    while side >= SMALLEST_SIDE:
        grey = Image(np.full((side, side, 3), 127, np.uint8), sha256="")
        try:
            prompt = adapter.prepare((Message(Role.USER, (grey,)),))
        except ServeError:  # of a shape that the processor refuses
            side //= 2
            continue
        if len(prompt.token_ids) < context:
            return prompt.images[0]
        side //= 2
    return None


def picture_bytes(
    adapter: ModelAdapter, image: PromptImage | None, meter: Meter
) -> tuple[int, float]:
    """The peak of the tower over a picture, and the bytes of a token of its features."""
    if image is None:
        return 0, 0.0
    seen: list[ImageFeatures] = []
    peak = meter.peak(lambda: seen.append(adapter.encode(image.inputs)))
    return peak, seen[0].num_bytes / seen[0].num_tokens
