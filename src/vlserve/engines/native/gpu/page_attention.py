"""Attention of one call over pages of the KV cache, as Transformers calls it.

A call is either a row for each of several sequences that decode, as it is recorded in a CUDA
graph, or the rows of parts of prompts.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from vlserve.engines.native.gpu.cuda_graphs import DecodeInputs
from vlserve.engines.native.gpu.kernels import PagedKernels
from vlserve.engines.native.gpu.page_cache import PagedCache
from vlserve.engines.native.runners.layer import LayerStep, refuse_changed_scores
from vlserve.engines.native.runners.masks import blocks_between, hidden_keys, show_blocks
from vlserve.engines.native.scheduling.pages import PAGE, num_pages
from vlserve.engines.native.scheduling.scheduler import Prefill
from vlserve.models.transfer import to_device

ATTENTION = "vlserve_pages"


@dataclass(frozen=True, slots=True)
class PromptPages:
    """Rows `start` to `end` of the call are a part of a prompt.

    They look at the first `num_keys` tokens of `pages` `i64[N]`. `masks` are
    `[group * (end - start), num_keys]`, the rows once for each of the `group` query heads that
    share a key head: 0 where a row may look and -inf elsewhere, one for each reach of the
    decoder's layers (None: any distance).
    """

    start: int
    end: int
    pages: torch.Tensor
    num_keys: int
    masks: Mapping[int | None, torch.Tensor]


@dataclass(frozen=True, slots=True)
class PageStep:
    """What each layer of one call needs: `places` `i64[T]` to write its T rows to, and whom they
    look at, rows that decode or `prompts`."""

    cache: PagedCache
    kernels: PagedKernels
    places: torch.Tensor
    decode: DecodeInputs | None
    prompts: tuple[PromptPages, ...] = ()


def page_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    page_step: PageStep,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Write the call's keys and values to their places and attend: `[1, T, num_heads, head_dim]`.

    The step says who sees whom; Transformers makes no `attention_mask` for this function. No sync
    with the device. Raises NotImplementedError for a decoder whose scores are changed in another
    way than by `scaling`.
    """
    refuse_changed_scores(others)
    cache, layer = page_step.cache, module.layer_idx
    step = LayerStep(
        query, key, value, cache.keys[layer], cache.values[layer], scaling, sliding_window
    )
    page_step.kernels.write(
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        step.cached_keys,
        step.cached_values,
        page_step.places,
    )
    if page_step.decode is None:
        out = torch.cat([_attend(step, rows) for rows in page_step.prompts])
        return out.unsqueeze(0), None
    out = page_step.kernels.attend(
        query[0].transpose(0, 1),
        step.cached_keys,
        step.cached_values,
        page_step.decode.page_table,
        page_step.decode.lengths,
        scaling=scaling,
        window=sliding_window,
    )
    return out.unsqueeze(0), None


def _attend(step: LayerStep, rows: PromptPages) -> torch.Tensor:
    """`[end - start, num_heads, head_dim]`: a part of a prompt over what is cached of it."""
    query = step.query[0, :, rows.start : rows.end]
    num_kv_heads, head_dim = step.key.shape[1], query.shape[2]

    def gathered(source: torch.Tensor) -> torch.Tensor:
        # Past `num_keys` a page may hold anything: it is cut off, and not only hidden.
        pages = source.index_select(0, rows.pages).transpose(0, 1)
        return pages.reshape(1, num_kv_heads, -1, head_dim)[:, :, : rows.num_keys]

    # The heads that share a key head are rows of one query: keys need not be repeated.
    out = functional.scaled_dot_product_attention(
        query.reshape(1, num_kv_heads, -1, head_dim),
        gathered(step.cached_keys),
        gathered(step.cached_values),
        attn_mask=rows.masks[step.window],
        scale=step.scaling,
    )
    return out.reshape(query.shape).transpose(0, 1)


def prompt_pages(
    prefill: Prefill,
    start: int,
    *,
    group: int,
    dtype: torch.dtype,
    device: torch.device,
    reaches: Collection[int | None],
) -> PromptPages:
    """Rows of a part of a prompt, the first of which is row `start` of the call."""
    first, last = prefill.start, prefill.end
    rows = torch.arange(first, last, device=device).unsqueeze(1)
    keys = torch.arange(last, device=device)
    # A part never ends inside a block.
    blocks = blocks_between(prefill.sequence.prompt.blocks, first, last)
    masks = {}
    for reach in reaches:
        is_hidden = hidden_keys(rows, keys, reach)
        show_blocks(is_hidden, first, blocks)
        mask = torch.zeros(is_hidden.shape, dtype=dtype, device=device)
        masks[reach] = mask.masked_fill_(is_hidden, -torch.inf).repeat(group, 1)
    pages = torch.tensor(prefill.sequence.pages[: num_pages(last)])
    return PromptPages(start, start + last - first, to_device(pages, device), last, masks)


def places_of(prefill: Prefill) -> torch.Tensor:
    """`i64[T]` on the host: where the part's keys and values are written."""
    tokens = np.arange(prefill.start, prefill.end)
    pages = np.array(prefill.sequence.pages)
    return torch.from_numpy(pages[tokens // PAGE] * PAGE + tokens % PAGE)
