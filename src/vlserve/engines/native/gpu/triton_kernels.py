"""Triton kernels over the pages of one layer's KV cache. Importing this needs Triton.

Nothing here reads a number back from the device, and no grid depends on a length: a launch can be
recorded in a CUDA graph and replayed when lengths, tables and places have changed.
"""

import torch
import triton
import triton.language as tl

# Enough work for each multiprocessor to hide the latency of memory.
PROGRAMS_PER_PROCESSOR = 2
# The smallest number of rows that `tl.dot` takes.
MIN_DOT_ROWS = 16


def attend(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scaling: float,
    window: int | None,
    num_splits: int,
) -> torch.Tensor:
    """`[B, H, D]`: see `paged_attention`. Each row's tokens are shared out to `num_splits`
    programs a key head, and a second kernel joins what they found."""
    num_rows, num_heads, head_dim = query.shape
    num_kv_heads, page_tokens = key_pages.shape[1:3]
    group = num_heads // num_kv_heads
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    is_split = num_splits > 1
    shape = (num_rows, num_heads, num_splits) if is_split else (0, 0, 0)
    sums = torch.empty((*shape, head_dim), dtype=torch.float32, device=query.device)
    # The largest score and the sum of weights of each share.
    maxima, totals = torch.empty((2, *shape), dtype=torch.float32, device=query.device).unbind()
    padded_dim = triton.next_power_of_2(head_dim)
    _attend_kernel[(num_rows, num_kv_heads, num_splits)](
        query,
        key_pages,
        value_pages,
        page_table,
        lengths,
        out,
        sums,
        maxima,
        totals,
        scaling,
        *query.stride()[:2],
        *key_pages.stride()[:3],
        *value_pages.stride()[:3],
        page_table.stride(0),
        *out.stride()[:2],
        window=window or 0,
        group=group,
        padded_group=max(MIN_DOT_ROWS, triton.next_power_of_2(group)),
        head_dim=head_dim,
        padded_dim=padded_dim,
        page_tokens=page_tokens,
        num_splits=num_splits,
        num_warps=4,
        num_stages=3,
    )
    if is_split:
        _join_kernel[(num_rows, num_heads)](
            sums,
            maxima,
            totals,
            out,
            *out.stride()[:2],
            head_dim=head_dim,
            padded_dim=padded_dim,
            num_splits=num_splits,
            padded_splits=triton.next_power_of_2(num_splits),
            num_warps=4,
        )
    return out


def write(
    key: torch.Tensor,
    value: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    places: torch.Tensor,
) -> None:
    """See `write_pages`: a program a token."""
    num_tokens, num_kv_heads, head_dim = key.shape
    if not num_tokens:
        return
    _write_kernel[(num_tokens,)](
        key,
        value,
        key_pages,
        value_pages,
        places,
        *key.stride()[:2],
        *value.stride()[:2],
        *key_pages.stride()[:3],
        *value_pages.stride()[:3],
        num_kv_heads=num_kv_heads,
        padded_kv_heads=triton.next_power_of_2(num_kv_heads),
        head_dim=head_dim,
        padded_dim=triton.next_power_of_2(head_dim),
        page_tokens=key_pages.shape[2],
        num_warps=4,
    )


def count_splits(num_rows: int, num_kv_heads: int, max_pages: int, num_processors: int) -> int:
    """How many programs share a row's tokens: a power of two, 1 where rows fill the device."""
    wanted = PROGRAMS_PER_PROCESSOR * num_processors / (num_rows * num_kv_heads)
    num_splits = 1
    while 2 * num_splits <= min(wanted, max_pages):
        num_splits *= 2
    return num_splits


@triton.jit
def _attend_kernel(
    query,
    key_pages,
    value_pages,
    page_table,
    lengths,
    out,
    sums,
    maxima,
    totals,
    scaling,
    query_row,
    query_head,
    key_page,
    key_head,
    key_token,
    value_page,
    value_head,
    value_token,
    table_row,
    out_row,
    out_head,
    window: tl.constexpr,
    group: tl.constexpr,
    padded_group: tl.constexpr,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    page_tokens: tl.constexpr,
    num_splits: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths + row)
    first = 0
    if window > 0:
        first = tl.maximum(length - window, 0)
    # Whole pages: each share begins at a page, and each page it holds has a token to look at.
    first_page = first // page_tokens
    num_pages = tl.cdiv(length, page_tokens) - first_page
    share = tl.cdiv(num_pages, num_splits)
    begin = first_page + split * share
    end = tl.minimum(begin + share, first_page + num_pages)

    heads = kv_head * group + tl.arange(0, padded_group)
    is_head = tl.arange(0, padded_group) < group
    dims = tl.arange(0, padded_dim)
    is_dim = dims < head_dim
    offsets = tl.arange(0, page_tokens)
    row = row.to(tl.int64)
    queries = tl.load(
        query + row * query_row + heads[:, None] * query_head + dims[None, :],
        mask=is_head[:, None] & is_dim[None, :],
        other=0.0,
    )
    # Below any score, and finite: the difference of two infinities is NaN.
    maximum = tl.full([padded_group], -1e30, tl.float32)
    total = tl.zeros([padded_group], tl.float32)
    weighted = tl.zeros([padded_group, padded_dim], tl.float32)
    for index in range(begin, end):
        page = tl.load(page_table + row * table_row + index).to(tl.int64)
        tokens = index * page_tokens + offsets
        is_seen = (tokens < length) & (tokens >= first)
        keys = tl.load(
            key_pages
            + page * key_page
            + kv_head * key_head
            + offsets[None, :] * key_token
            + dims[:, None],
            mask=is_seen[None, :] & is_dim[:, None],
            other=0.0,
        )
        values = tl.load(
            value_pages
            + page * value_page
            + kv_head * value_head
            + offsets[:, None] * value_token
            + dims[None, :],
            mask=is_seen[:, None] & is_dim[None, :],
            other=0.0,
        )
        # Powers of two are cheaper than those of e: the factor is log2(e).
        scores = tl.dot(queries, keys, input_precision="ieee") * (scaling * 1.4426950408889634)
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        fade = tl.exp2(maximum - new_maximum)
        weights = tl.exp2(scores - new_maximum[:, None])
        total = total * fade + tl.sum(weights, axis=1)
        weighted = weighted * fade[:, None] + tl.dot(
            weights.to(values.dtype), values, input_precision="ieee"
        )
        maximum = new_maximum

    if num_splits == 1:
        # A row of length 0 has no weights: zeros, not 0 / 0.
        result = weighted / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(
            out + row * out_row + heads[:, None] * out_head + dims[None, :],
            result.to(out.dtype.element_ty),
            mask=is_head[:, None] & is_dim[None, :],
        )
    else:
        num_heads = tl.num_programs(1) * group
        places = (row * num_heads + heads) * num_splits + split
        tl.store(
            sums + places[:, None] * head_dim + dims[None, :],
            weighted,
            mask=is_head[:, None] & is_dim[None, :],
        )
        tl.store(maxima + places, maximum, mask=is_head)
        tl.store(totals + places, total, mask=is_head)


@triton.jit
def _join_kernel(
    sums,
    maxima,
    totals,
    out,
    out_row,
    out_head,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    num_splits: tl.constexpr,
    padded_splits: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    splits = tl.arange(0, padded_splits)
    is_split = splits < num_splits
    dims = tl.arange(0, padded_dim)
    is_dim = dims < head_dim
    places = (row * tl.num_programs(1) + head) * num_splits + splits
    largest = tl.load(maxima + places, mask=is_split, other=-1e30)
    total = tl.load(totals + places, mask=is_split, other=0.0)
    scales = tl.exp2(largest - tl.max(largest, axis=0))
    weighted = tl.load(
        sums + places[:, None] * head_dim + dims[None, :],
        mask=is_split[:, None] & is_dim[None, :],
        other=0.0,
    )
    total = tl.sum(total * scales, axis=0)
    result = tl.sum(weighted * scales[:, None], axis=0) / tl.where(total > 0, total, 1.0)
    tl.store(
        out + row * out_row + head * out_head + dims,
        result.to(out.dtype.element_ty),
        mask=is_dim,
    )


@triton.jit
def _write_kernel(
    key,
    value,
    key_pages,
    value_pages,
    places,
    key_row,
    key_kv_head,
    value_row,
    value_kv_head,
    key_page,
    key_head,
    key_token,
    value_page,
    value_head,
    value_token,
    num_kv_heads: tl.constexpr,
    padded_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    page_tokens: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(places + row)
    heads = tl.arange(0, padded_kv_heads)[:, None]
    dims = tl.arange(0, padded_dim)[None, :]
    is_owned = (heads < num_kv_heads) & (dims < head_dim) & (place >= 0)
    # The row of nobody counts as one of page 0, and is not written.
    place = tl.maximum(place, 0)
    page = place // page_tokens
    token = place % page_tokens
    keys = tl.load(key + row * key_row + heads * key_kv_head + dims, mask=is_owned)
    values = tl.load(value + row * value_row + heads * value_kv_head + dims, mask=is_owned)
    tl.store(
        key_pages + page * key_page + heads * key_head + token * key_token + dims,
        keys,
        mask=is_owned,
    )
    tl.store(
        value_pages + page * value_page + heads * value_head + token * value_token + dims,
        values,
        mask=is_owned,
    )
