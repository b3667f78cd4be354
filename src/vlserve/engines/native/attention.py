"""Attention of one step over the slots of the KV cache, as Transformers calls it.

Every sequence's numbers are the same whoever else runs: a prompt attends alone, and a decode row
attends over a key length rounded to a multiple that changes no bit.
"""

from typing import Any

import torch
from torch.nn import functional

from vlserve.engines.native.batch import Batch, DecodeRows, PromptRows

ATTENTION = "vlserve_slots"


def slot_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    slot_batch: Batch,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Write the step's keys and values to the cache and attend.

    `query` `[1, num_heads, T, head_dim]`, `key` and `value` `[1, num_kv_heads, T, head_dim]`; the
    result is `[1, T, num_heads, head_dim]`. `attention_mask` is unused: the batch says who sees
    whom.
    """
    keys = slot_batch.cache.keys[module.layer_idx]
    values = slot_batch.cache.values[module.layer_idx]
    parts = []
    if slot_batch.decode is not None:
        parts.append(_decode(slot_batch.decode, query, key, value, keys, values, scaling))
    for rows in slot_batch.prompts:
        parts.append(_prefill(rows, query, key, value, keys, values, scaling, sliding_window))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.unsqueeze(0), None


def _decode(
    rows: DecodeRows,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    num_rows, num_kv_heads, head_dim = rows.num_rows, key.shape[1], key.shape[3]
    keys[rows.slots, :, rows.positions] = key[0, :, :num_rows].transpose(0, 1)
    values[rows.slots, :, rows.positions] = value[0, :, :num_rows].transpose(0, 1)
    # The query heads that share a key head stand as its rows: nothing is repeated.
    grouped = query[0, :, :num_rows].transpose(0, 1).reshape(num_rows, num_kv_heads, -1, head_dim)
    if rows.holes:
        padded = grouped.new_zeros(rows.last - rows.first, *grouped.shape[1:])
        padded[rows.slots - rows.first] = grouped
        grouped = padded
    out = functional.scaled_dot_product_attention(
        grouped,
        keys[rows.first : rows.last, :, : rows.key_length],
        values[rows.first : rows.last, :, : rows.key_length],
        attn_mask=rows.mask,
        scale=scaling,
    )
    if rows.holes:
        out = out[rows.slots - rows.first]
    return out.reshape(num_rows, -1, head_dim)


def _prefill(
    rows: PromptRows,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    own_query = query[:, :, rows.start : rows.end]
    own_key = key[:, :, rows.start : rows.end]
    own_value = value[:, :, rows.start : rows.end]
    length = rows.end - rows.start
    keys[rows.slot, :, :length] = own_key[0]
    values[rows.slot, :, :length] = own_value[0]
    mask = None
    if window is not None and length > window:
        ahead = torch.arange(length, device=query.device)
        distance = ahead[:, None] - ahead[None, :]
        mask = (distance >= 0) & (distance < window)
    out = functional.scaled_dot_product_attention(
        own_query,
        own_key,
        own_value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[0].transpose(0, 1)
