"""How large the KV cache of a decoder is, and how much of a GPU it may take."""

from dataclasses import dataclass
from typing import Any, Final

import torch

from vlserve.engines.native.scheduling.pages import PAGE
from vlserve.models.kv_cache import kv_cache_bytes
from vlserve.settings import CPU_CACHE_MIB, HELD_BACK, MIB

# Of a GPU, for what a step, the vision tower and recorded steps need beside weights and cache.
RESERVE_BYTES: Final = 2 * 1024 * MIB


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Keys or values of one token, in each of `num_layers`: `[num_kv_heads, head_dim]`."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, text_config: Any) -> "CacheShape":
        """Of a decoder of `text_config`."""
        num_heads: int = text_config.num_attention_heads
        return cls(
            num_layers=text_config.num_hidden_layers,
            num_heads=num_heads,
            num_kv_heads=getattr(text_config, "num_key_value_heads", None) or num_heads,
            head_dim=getattr(text_config, "head_dim", None) or text_config.hidden_size // num_heads,
        )

    def page_bytes(self, dtype: torch.dtype) -> int:
        """Keys and values of a page in all layers, bytes."""
        return kv_cache_bytes(
            PAGE,
            num_layers=self.num_layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            item_bytes=dtype.itemsize,
        )

    def num_pages(self, cache_bytes: int, dtype: torch.dtype) -> int:
        """Pages within a bound. Raises ValueError when it does not hold two."""
        pages = cache_bytes // self.page_bytes(dtype)
        if pages < 2:
            needed = 2 * self.page_bytes(dtype) / MIB
            raise ValueError(f"two pages of {PAGE} tokens take {needed:.1f} MiB")
        return pages


def cache_bytes(cache_mib: int | None, device: torch.device) -> int:
    """The bound of the KV cache in bytes; None: CPU_CACHE_MIB, or what the GPU has left now that
    the weights are there."""
    if cache_mib is not None:
        return cache_mib * MIB
    if device.type != "cuda":
        return CPU_CACHE_MIB * MIB
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return left_of(free, total)


def left_of(free: int, total: int) -> int:
    """Bytes of a GPU that a KV cache may take: nine tenths of it without what is taken and the
    reserve, never below 0."""
    return max(0, free - int(total * HELD_BACK) - RESERVE_BYTES)
