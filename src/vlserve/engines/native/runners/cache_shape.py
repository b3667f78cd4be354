"""How large the KV cache of a decoder is."""

from dataclasses import dataclass
from typing import Any

import torch

from vlserve.engines.native.scheduling.pages import PAGE
from vlserve.models.kv_cache import kv_cache_bytes
from vlserve.settings import CPU_CACHE_MIB, MIB


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

    def num_pages(self, cache_bytes: int, dtype: torch.dtype, beside: int = 0) -> int:
        """Pages within a bound, with `beside` bytes for each. Raises ValueError when it does not
        hold two."""
        pages = cache_bytes // (self.page_bytes(dtype) + beside)
        if pages < 2:
            needed = 2 * self.page_bytes(dtype) / MIB
            raise ValueError(f"two pages of {PAGE} tokens take {needed:.1f} MiB")
        return pages


def cache_bytes(cache_mib: int | None) -> int:
    """The bound of the KV cache in bytes; None: CPU_CACHE_MIB."""
    return (CPU_CACHE_MIB if cache_mib is None else cache_mib) * MIB
