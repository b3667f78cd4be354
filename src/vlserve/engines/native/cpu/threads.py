"""Attention of decode rows on several threads, each with slots of its own (CPU)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# For fewer keys and values, to wake another thread takes as long as to read them.
PART_BYTES = 2 * 1024 * 1024


class Team:
    """Threads among which the attention of decode rows is divided: slots, not the kernel's work,
    so that no number depends on how many threads there are (`attention._one_thread` says why).

    `num_threads` counts the caller's own.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._others = ThreadPoolExecutor(max(1, num_threads - 1), "vlserve-attend")

    def map(
        self, attend: Callable[[slice], torch.Tensor], num_slots: int, num_bytes: int
    ) -> torch.Tensor:
        """`attend` of all slots, concatenated, which reads `num_bytes` in all."""
        num_parts = min(self._num_threads, num_slots, 1 + num_bytes // PART_BYTES)
        ends = [num_slots * (i + 1) // num_parts for i in range(num_parts)]
        parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        others = [self._others.submit(attend, part) for part in parts[1:]]
        own = attend(parts[0])
        return torch.cat([own, *(other.result() for other in others)]) if others else own
