"""Keys and values of running sequences on a CPU: a slot each, the same in every layer."""

import mmap
import sys
from collections.abc import Sequence
from typing import Any

import torch

from vlserve.engines.native.runners.cache_shape import CacheShape
from vlserve.engines.native.scheduling.pages import PAGE, num_pages, round_up


class SlotCache:
    """`keys[layer]` and `values[layer]`: `[num_slots, num_kv_heads, num_tokens, head_dim]`.

    A slot is address space for a whole context; memory is taken as tokens come and given back when
    the slot is cleared. Copies of cached pages, `[2 * num_layers, num_kv_heads, PAGE, head_dim]`
    each, are kept beside. Nothing here counts: the caller keeps to `num_pages` in all, which take
    `num_bytes`.
    """

    def __init__(
        self,
        shape: CacheShape,
        *,
        num_slots: int,
        num_tokens: int,
        dtype: torch.dtype,
        num_pages: int,
    ) -> None:
        size = (num_slots, shape.num_kv_heads, num_tokens, shape.head_dim)
        self.num_slots = num_slots
        self.num_tokens = num_tokens
        self.num_pages = num_pages
        self.num_bytes = num_pages * shape.page_bytes(dtype)
        self._spaces = [_Space(size, dtype) for _ in range(2 * shape.num_layers)]
        tensors = [space.tensor for space in self._spaces]
        self.keys = tensors[: shape.num_layers]
        self.values = tensors[shape.num_layers :]
        self._kept: dict[int, torch.Tensor] = {}

    def clear(self, slot: int, num_tokens: int) -> None:
        """Zero the first `num_tokens` of a slot.

        A masked position still multiplies its value by zero, and NaN times zero is NaN: what one
        owner leaves behind must not reach the next.
        """
        for space in self._spaces:
            space.clear(slot, num_tokens)

    def save(self, page: int, slot: int, index: int) -> None:
        """Keep page `index` of a slot as `page`."""
        span = slice(index * PAGE, (index + 1) * PAGE)
        layers = (*self.keys, *self.values)
        self._kept[page] = torch.stack([tensor[slot, :, span] for tensor in layers])

    def restore(self, slot: int, pages: Sequence[int]) -> None:
        """Copy kept pages to the beginning of a slot."""
        for index, page in enumerate(pages):
            span = slice(index * PAGE, (index + 1) * PAGE)
            layers = zip((*self.keys, *self.values), self._kept[page], strict=True)
            for tensor, kept in layers:
                tensor[slot, :, span] = kept

    def evict(self, page: int) -> None:
        """Let a kept page go."""
        del self._kept[page]


class _Space:
    """A tensor over address space that is backed by memory only where it was written."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        num_slots, num_heads, num_tokens, head_dim = shape
        self._row_bytes = head_dim * dtype.itemsize
        # Each head's tokens begin at a page of the machine's, so that they can be given back.
        self._head_bytes = round_up(num_tokens * self._row_bytes, mmap.PAGESIZE)
        self._slot_bytes = num_heads * self._head_bytes
        self._memory = mmap.mmap(-1, num_slots * self._slot_bytes, flags=_ANONYMOUS)
        strides = (self._slot_bytes, self._head_bytes, self._row_bytes)
        self.tensor = torch.frombuffer(self._memory, dtype=dtype).as_strided(
            shape, (*(stride // dtype.itemsize for stride in strides), 1)
        )

    def clear(self, slot: int, num_tokens: int) -> None:
        if sys.platform != "linux":
            self.tensor[slot, :, :num_tokens].zero_()
            return
        # Given back, and zero when it is touched again: madvise(2).
        length = round_up(num_tokens * self._row_bytes, mmap.PAGESIZE)
        start = slot * self._slot_bytes
        if length == self._head_bytes:
            self._memory.madvise(mmap.MADV_DONTNEED, start, self._slot_bytes)
            return
        for head in range(self._slot_bytes // self._head_bytes):
            self._memory.madvise(
                mmap.MADV_DONTNEED, start + head * self._head_bytes, min(length, self._head_bytes)
            )


# Address space is not memory yet: it must not count as if it were.
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)


def make_cache(
    text_config: Any, *, cache_bytes: int, max_running: int, dtype: torch.dtype
) -> SlotCache:
    """A cache for a decoder of `text_config` within `cache_bytes`.

    Raises ValueError when the bound does not hold two pages.
    """
    shape = CacheShape.of(text_config)
    pages = shape.num_pages(cache_bytes, dtype)
    return SlotCache(
        shape,
        num_slots=max_running,
        num_tokens=min(pages, num_pages(text_config.max_position_embeddings)) * PAGE,
        dtype=dtype,
        num_pages=pages,
    )
