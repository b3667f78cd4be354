"""Keys and values of running sequences: one slot each, the same in every layer."""

from typing import Any

import torch

from vlserve.engines.native.slots import plan_slots

MIB = 1024 * 1024


class KVCache:
    """`keys[layer]` and `values[layer]`: `[num_slots, num_kv_heads, num_tokens, head_dim]`."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        num_tokens: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_slots, num_kv_heads, num_tokens, head_dim)
        self.num_slots = num_slots
        self.num_tokens = num_tokens
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]

    @property
    def num_bytes(self) -> int:
        """Memory of all layers, bytes."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    def clear(self, slot: int, num_tokens: int) -> None:
        """Zero the first `num_tokens` of a slot.

        A masked position still multiplies its value by zero, and NaN times zero is NaN: what one
        owner leaves behind must not reach the next.
        """
        for tensor in (*self.keys, *self.values):
            tensor[slot, :, :num_tokens].zero_()


def make_cache(
    text_config: Any,
    *,
    cache_mib: int,
    max_running: int,
    dtype: torch.dtype,
    device: torch.device,
) -> KVCache:
    """A cache for a decoder of `text_config` within `cache_mib`.

    Raises ValueError when the bound does not hold even one short sequence.
    """
    num_layers: int = text_config.num_hidden_layers
    num_heads: int = text_config.num_attention_heads
    num_kv_heads: int = getattr(text_config, "num_key_value_heads", None) or num_heads
    hidden_size: int = text_config.hidden_size
    head_dim: int = getattr(text_config, "head_dim", None) or hidden_size // num_heads
    num_slots, num_tokens = plan_slots(
        cache_bytes=cache_mib * MIB,
        bytes_per_token=2 * num_layers * num_kv_heads * head_dim * dtype.itemsize,
        max_positions=text_config.max_position_embeddings,
        max_running=max_running,
    )
    return KVCache(
        num_layers=num_layers,
        num_slots=num_slots,
        num_kv_heads=num_kv_heads,
        num_tokens=num_tokens,
        head_dim=head_dim,
        dtype=dtype,
        device=device,
    )
