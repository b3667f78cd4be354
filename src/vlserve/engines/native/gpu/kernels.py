"""Decode attention over pages of the KV cache: Triton kernels, and the same in plain torch.

A page holds `page_tokens` tokens of one sequence in one layer. `page_table[row]` names the pages of
a row in order; where a token goes is its place, `page * page_tokens + offset`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from vlserve.engines.native.scheduling.pages import PAGE

PAGE_TOKENS = PAGE
# On a CPU there is Triton's interpreter, which runs one program after the other.
INTERPRETED_PROCESSORS = 2
# Largest difference of the two ways in the check at load, on numbers of about 1.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_log = logging.getLogger(__name__)


def paged_attention(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """Each row attends over its own pages, by Triton: `[B, H, D]` of `query`'s dtype.

    `query` `[B, H, D]`; `key_pages` and `value_pages` `[P, Hkv, page_tokens, D]`, H a multiple of
    Hkv, D a multiple of 16 up to 256, the last dimension contiguous; `page_table`
    `i32[B, max_pages]`, whose entries past a row's pages are not read; `lengths` `i32[B]`: tokens
    to look at, the newest included. With `window` only the last `window` of them are seen. A row of
    length 0 gives zeros. A row has the same bits alone and in company. No sync with the device; can
    be recorded in a CUDA graph.

    Raises RuntimeError where Triton is not installed, ValueError for shapes it cannot do.
    """
    kernels = _triton_kernels()
    head_dim = query.shape[2]
    if head_dim % 16 or head_dim > 256:
        raise ValueError(f"head_dim {head_dim} is no multiple of 16 up to 256")
    num_processors = _num_processors(query.device)
    attended: torch.Tensor = kernels.attend(
        query,
        key_pages,
        value_pages,
        page_table,
        lengths,
        scaling=scaling,
        window=window,
        max_shares=kernels.max_shares(key_pages.shape[1], num_processors),
        num_programs=kernels.num_programs(num_processors),
    )
    return attended


def write_pages(
    key: torch.Tensor,
    value: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    places: torch.Tensor,
) -> None:
    """Put tokens into their places, by Triton.

    `key` and `value` `[T, Hkv, D]`, `places` `i64[T]`, no two the same but -1: that row is nobody's
    and is dropped. No sync with the device. Raises RuntimeError where Triton is not installed.
    """
    _triton_kernels().write(key, value, key_pages, value_pages, places)


def plain_paged_attention(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """What `paged_attention` does, by torch alone: all pages of the table are gathered first, so a
    table no wider than its longest row is worth having. Any head_dim."""
    num_rows, num_heads, head_dim = query.shape
    num_kv_heads, page_tokens = key_pages.shape[1:3]
    num_tokens = page_table.shape[1] * page_tokens
    tokens = torch.arange(num_tokens, device=query.device)
    ends = lengths.unsqueeze(1)
    is_seen = tokens < ends
    if window is not None:
        is_seen &= tokens >= ends - window
    # What the table names past a row's pages may be no page at all.
    pages = page_table.masked_fill(tokens[::page_tokens] >= ends, 0)

    def gathered(source: torch.Tensor) -> torch.Tensor:
        rows = source[pages.long()].transpose(1, 2)
        rows = rows.reshape(num_rows, num_kv_heads, num_tokens, head_dim)
        # NaN in a place that nobody looks at stays NaN when it is multiplied by 0.
        return rows.masked_fill(~is_seen[:, None, :, None], 0)

    # The heads that share a key head are rows of one query: keys need not be repeated.
    grouped = query.reshape(num_rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
    out = functional.scaled_dot_product_attention(
        grouped,
        gathered(key_pages),
        gathered(value_pages),
        attn_mask=is_seen[:, None, None, :],
        scale=scaling,
    )
    return out.reshape(query.shape).masked_fill((lengths == 0)[:, None, None], 0)


def plain_write_pages(
    key: torch.Tensor,
    value: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    places: torch.Tensor,
) -> None:
    """What `write_pages` does, by torch alone and without a sync either."""
    num_tokens = places.shape[0]
    if not num_tokens:
        return
    page_tokens = key_pages.shape[2]
    is_owned = places >= 0
    # Nobody's rows repeat an owned one: the same numbers in the same place, whatever the order.
    # Where no row is owned they write what is there already.
    rows = torch.where(
        is_owned, torch.arange(num_tokens, device=places.device), is_owned.long().argmax()
    )
    targets = places[rows]
    is_new = (targets >= 0)[:, None, None]
    targets = targets.clamp(min=0)
    pages, offsets = targets // page_tokens, targets % page_tokens
    for source, target in ((key, key_pages), (value, value_pages)):
        target[pages, :, offsets] = torch.where(is_new, source[rows], target[pages, :, offsets])


@dataclass(frozen=True, slots=True)
class PagedKernels:
    """One way of doing both, chosen at load: `attend` as `paged_attention`, `write` as
    `write_pages`. `can_graph`: it costs no more for the widest page table than for a narrow one."""

    name: str
    attend: Callable[..., torch.Tensor]
    write: Callable[..., None]
    can_graph: bool


TRITON = PagedKernels("triton", paged_attention, write_pages, can_graph=True)
PLAIN = PagedKernels("plain", plain_paged_attention, plain_write_pages, can_graph=False)


def choose_kernels(
    device: torch.device,
    dtype: torch.dtype,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> PagedKernels:
    """Triton on a CUDA device where it gives the numbers that plain torch gives for these heads;
    plain torch elsewhere. Says in the log which one it is and why. Synchronises: for load time."""
    if device.type != "cuda":
        return PLAIN
    try:
        _check_triton(device, dtype, num_heads, num_kv_heads, head_dim)
    # Whatever a compiler or a driver may raise: the plain way answers, more slowly.
    except Exception as error:
        _log.warning("decode attention is plain torch, and slow: %s", error)
        return PLAIN
    _log.info("decode attention: Triton over pages of %d tokens", PAGE_TOKENS)
    return TRITON


def _check_triton(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int
) -> None:
    """Raises what Triton raises, or RuntimeError when its numbers are not the plain ones."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    lengths = torch.tensor([1, PAGE_TOKENS, 0, 3 * PAGE_TOKENS - 5], device=device).int()
    table = torch.arange(12, device=device).view(4, 3).int()
    for window in (None, PAGE_TOKENS + 3):
        outputs = []
        query, key, value = noise(4, num_heads, head_dim), *noise(2, 4, num_kv_heads, head_dim)
        pages = noise(2, 12, num_kv_heads, PAGE_TOKENS, head_dim)
        places = torch.tensor([0, 4 * PAGE_TOKENS - 1, -1, 7], device=device)
        for kernels in (TRITON, PLAIN):
            keys, values = pages.clone().unbind()
            kernels.write(key, value, keys, values, places)
            out = kernels.attend(
                query, keys, values, table, lengths, scaling=head_dim**-0.5, window=window
            )
            outputs.append((keys, values, out))
        for ours, plain in zip(*outputs, strict=True):
            difference = float((ours - plain).abs().max())
            if not difference <= TOLERANCE[dtype]:
                raise RuntimeError(f"Triton's numbers are off by {difference:.2g}")


def _triton_kernels() -> Any:
    """Imported when it is first needed: an engine on a CPU starts without Triton, also where it is
    installed."""
    try:
        from vlserve.engines.native.gpu import triton_kernels  # noqa: PLC0415 - as above
    except ImportError as error:
        raise RuntimeError(f"attention over pages needs Triton: {error}") from error
    return triton_kernels


@cache
def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
