"""Attention of one step over the slots of the KV cache, as Transformers calls it.

Every sequence's numbers are the same whoever else runs: a prompt attends alone and page by page,
and a decode row attends over a key length rounded to a multiple that changes no bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from vlserve.engines.native.cpu.batch import Batch, DecodeRows, PromptRows
from vlserve.engines.native.cpu.threads import Team
from vlserve.engines.native.runners.layer import LayerStep, refuse_changed_scores

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
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Write the step's keys and values to the cache and attend: `[1, T, num_heads, head_dim]`.

    The batch says who sees whom; Transformers makes no `attention_mask` for this function. Raises
    NotImplementedError for a decoder whose scores are changed in another way than by `scaling`.
    """
    refuse_changed_scores(others)
    layer: int = module.layer_idx
    keys, values = slot_batch.cache.keys[layer], slot_batch.cache.values[layer]
    step = LayerStep(query, key, value, keys, values, scaling, sliding_window)
    parts = [] if slot_batch.decode is None else [_decode(step, slot_batch.decode, slot_batch.team)]
    for rows in slot_batch.prompts:
        parts += _prefill(step, rows)
    if slot_batch.num_padding:
        parts.append(query.new_zeros(slot_batch.num_padding, query.shape[1], query.shape[3]))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.unsqueeze(0), None


def _decode(step: LayerStep, rows: DecodeRows, team: Team) -> torch.Tensor:
    """`[num_rows, num_heads, head_dim]`: each row over its own slot."""
    num_rows = rows.num_rows
    step.cached_keys[rows.slots, :, rows.positions] = step.key[0, :, :num_rows].transpose(0, 1)
    step.cached_values[rows.slots, :, rows.positions] = step.value[0, :, :num_rows].transpose(0, 1)
    query = step.query[0, :, :num_rows].transpose(0, 1).unsqueeze(2)
    num_slots = rows.last - rows.first
    if rows.holes:
        padded = query.new_zeros(num_slots, *query.shape[1:])
        padded[rows.slots - rows.first] = query
        query = padded
    keys = step.cached_keys[rows.first : rows.last, :, : rows.key_length]
    values = step.cached_values[rows.first : rows.last, :, : rows.key_length]
    mask = rows.masks[step.window]

    def attend(part: slice) -> torch.Tensor:
        with torch.inference_mode(), _one_thread(query.device):
            return functional.scaled_dot_product_attention(
                query[part],
                keys[part],
                values[part],
                attn_mask=mask[part],
                scale=step.scaling,
                enable_gqa=step.is_grouped,
            )

    out = team.map(attend, num_slots, keys.nbytes + values.nbytes)
    if rows.holes:
        out = out[rows.slots - rows.first]
    return out.squeeze(2)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """One thread for the kernel over one query row a head (CPU).

    Each of several threads has a scratch buffer whose alignment, and so the last bits of its
    sums, differ from the next one's: a row would depend on which thread the company leaves it.
    """
    if device.type != "cpu":
        yield
        return
    num_threads = torch.get_num_threads()
    # Said even where it is one already: others in the process can set it for the matrix library.
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _prefill(step: LayerStep, rows: PromptRows) -> Iterator[torch.Tensor]:
    """`[num_rows, num_heads, head_dim]` of each page: a prompt over what is cached of it."""
    span = slice(rows.position, rows.position + rows.end - rows.start)
    keys, values = step.cached_keys[rows.slot], step.cached_values[rows.slot]
    keys[:, span] = step.key[0, :, rows.start : rows.end]
    values[:, span] = step.value[0, :, rows.start : rows.end]
    for block in rows.blocks:
        out = functional.scaled_dot_product_attention(
            step.query[:, :, block.start : block.end],
            keys[None, :, : block.num_keys],
            values[None, :, : block.num_keys],
            attn_mask=block.masks[step.window],
            scale=step.scaling,
            enable_gqa=step.is_grouped,
        )
        yield out[0].transpose(0, 1)
