"""Triton kernels over the pages of one layer's KV cache. Importing this needs Triton.

Nothing here reads a number back from the device, and no grid depends on a length: a launch can be
recorded in a CUDA graph and replayed when lengths, tables and places have changed.
"""

import torch
import triton
import triton.language as tl

# Programs that run beside each other on a multiprocessor: while one waits for memory another
# computes.
PROGRAMS_PER_PROCESSOR = 4
# Below this many pages a share costs more to join than it saves.
MIN_SHARE_PAGES = 4
# What the kernel that joins shares can hold at once.
MAX_SHARES = 64
# The smallest number of rows that `tl.dot` takes.
MIN_DOT_ROWS = 16
# Batches up to this size have one compiled kernel.
MIN_PADDED_ROWS = 16
# The compiler spends two stages on the page table, whose entries say where the pages lie. Five
# leave two buffers of pages, one of which is loaded while the other is computed with; three leave
# one, which is all that wide heads in float32 have room for on every card.
STAGES, STAGES_OF_ONE_BUFFER = 5, 3
BUFFER_BYTES = 96 * 1024


def attend(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scaling: float,
    window: int | None,
    max_shares: int,
    num_programs: int,
) -> torch.Tensor:
    """`[B, H, D]`: see `paged_attention`. Each row's pages are cut into shares, at most
    `max_shares`; the shares of all rows are dealt out to `num_programs` programs, and a second
    kernel joins what they found.

    How a row is cut depends on its own length and window, so its output has the same bits alone
    and in company. `max_shares` is a power of two.
    """
    num_rows, num_heads, head_dim = query.shape
    num_kv_heads, page_tokens = key_pages.shape[1:3]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if not num_rows:
        return out
    group = num_heads // num_kv_heads
    shape = (num_rows, num_heads, max_shares)
    sums = torch.empty((*shape, head_dim), dtype=torch.float32, device=query.device)
    # The largest score and the sum of weights of each share.
    maxima, totals = torch.empty((2, *shape), dtype=torch.float32, device=query.device).unbind()
    padded_dim = triton.next_power_of_2(head_dim)
    cut = {"window": window or 0, "page_tokens": page_tokens, "max_shares": max_shares}
    cut["min_share"] = MIN_SHARE_PAGES
    _attend_kernel[(num_programs,)](
        query,
        key_pages,
        value_pages,
        page_table,
        lengths,
        sums,
        maxima,
        totals,
        scaling,
        num_rows,
        *query.stride()[:2],
        *key_pages.stride()[:3],
        *value_pages.stride()[:3],
        page_table.stride(0),
        num_kv_heads=num_kv_heads,
        group=group,
        padded_group=max(MIN_DOT_ROWS, triton.next_power_of_2(group)),
        padded_rows=max(MIN_PADDED_ROWS, triton.next_power_of_2(num_rows)),
        head_dim=head_dim,
        padded_dim=padded_dim,
        num_warps=4,
        num_stages=num_stages(padded_dim, page_tokens, query.element_size()),
        **cut,
    )
    _join_kernel[(num_rows, num_heads)](
        sums,
        maxima,
        totals,
        lengths,
        out,
        *out.stride()[:2],
        head_dim=head_dim,
        padded_dim=padded_dim,
        num_warps=4,
        **cut,
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


def max_shares(num_kv_heads: int, num_processors: int) -> int:
    """The most shares that a row is cut into: a power of two with which one long row alone fills
    the device."""
    programs = num_programs(num_processors)
    shares = triton.next_power_of_2(triton.cdiv(programs, num_kv_heads))
    return int(min(shares, MAX_SHARES))


def num_stages(padded_dim: int, page_tokens: int, element_size: int) -> int:
    """As many as keep two buffers of a page's keys and values, where these fit any card."""
    buffers = 2 * 2 * padded_dim * page_tokens * element_size
    return STAGES if buffers <= BUFFER_BYTES else STAGES_OF_ONE_BUFFER


def num_programs(num_processors: int) -> int:
    """How many programs the shares of a batch are dealt out to."""
    return PROGRAMS_PER_PROCESSOR * num_processors


@triton.jit
def _shares(
    lengths,
    window: tl.constexpr,
    page_tokens: tl.constexpr,
    min_share: tl.constexpr,
    max_shares: tl.constexpr,
):
    """Of rows of `lengths`: the first page with a token to look at, the pages of a share, and the
    number of shares. Whole pages: each page of a share has a token to look at."""
    first_page = lengths * 0
    if window > 0:
        first_page = tl.maximum(lengths - window, 0) // page_tokens
    num_pages = tl.cdiv(lengths, page_tokens) - first_page
    share = tl.maximum(tl.cdiv(num_pages, max_shares), min_share)
    return first_page, share, tl.cdiv(num_pages, share)


@triton.jit
def _attend_kernel(
    query,
    key_pages,
    value_pages,
    page_table,
    lengths,
    sums,
    maxima,
    totals,
    scaling,
    num_rows,
    query_row,
    query_head,
    key_page,
    key_head,
    key_token,
    value_page,
    value_head,
    value_token,
    table_row,
    num_kv_heads: tl.constexpr,
    group: tl.constexpr,
    padded_group: tl.constexpr,
    padded_rows: tl.constexpr,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    window: tl.constexpr,
    page_tokens: tl.constexpr,
    min_share: tl.constexpr,
    max_shares: tl.constexpr,
) -> None:
    rows = tl.arange(0, padded_rows)
    row_lengths = tl.load(lengths + rows, mask=rows < num_rows, other=0)
    row_shares = _shares(row_lengths, window, page_tokens, min_share, max_shares)[2]
    ends = tl.cumsum(row_shares, axis=0)
    in_group = tl.arange(0, padded_group)
    is_head = in_group < group
    dims = tl.arange(0, padded_dim)
    is_dim = dims < head_dim
    offsets = tl.arange(0, page_tokens)

    num_items = tl.sum(row_shares, axis=0) * num_kv_heads
    for item in range(tl.program_id(0), num_items, tl.num_programs(0)):
        kv_head = item % num_kv_heads
        nth = item // num_kv_heads
        row = tl.sum((ends <= nth).to(tl.int32), axis=0)
        split = nth - tl.sum(tl.where(rows < row, row_shares, 0), axis=0)
        length = tl.load(lengths + row)
        first = 0
        if window > 0:
            first = tl.maximum(length - window, 0)
        cut = _shares(length, window, page_tokens, min_share, max_shares)
        begin = cut[0] + split * cut[1]
        end = tl.minimum(begin + cut[1], tl.cdiv(length, page_tokens))

        heads = kv_head * group + in_group
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

        places = (row * (num_kv_heads * group) + heads) * max_shares + split
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
    lengths,
    out,
    out_row,
    out_head,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    window: tl.constexpr,
    page_tokens: tl.constexpr,
    min_share: tl.constexpr,
    max_shares: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    head = tl.program_id(1)
    length = tl.load(lengths + row)
    num_shares = _shares(length, window, page_tokens, min_share, max_shares)[2]
    row = row.to(tl.int64)
    shares = tl.arange(0, max_shares)
    # What the others of a row's places hold was never written.
    is_share = shares < num_shares
    dims = tl.arange(0, padded_dim)
    is_dim = dims < head_dim
    places = (row * tl.num_programs(1) + head) * max_shares + shares
    largest = tl.load(maxima + places, mask=is_share, other=-1e30)
    total = tl.load(totals + places, mask=is_share, other=0.0)
    scales = tl.exp2(largest - tl.max(largest, axis=0))
    weighted = tl.load(
        sums + places[:, None] * head_dim + dims[None, :],
        mask=is_share[:, None] & is_dim[None, :],
        other=0.0,
    )
    total = tl.sum(total * scales, axis=0)
    # A row of length 0 has no weights: zeros, not 0 / 0.
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
    # A row that is nobody's has place -1.
    if place >= 0:
        heads = tl.arange(0, padded_kv_heads)[:, None]
        dims = tl.arange(0, padded_dim)[None, :]
        is_there = (heads < num_kv_heads) & (dims < head_dim)
        page = place // page_tokens
        token = place % page_tokens
        keys = tl.load(key + row * key_row + heads * key_kv_head + dims, mask=is_there)
        values = tl.load(value + row * value_row + heads * value_kv_head + dims, mask=is_there)
        tl.store(
            key_pages + page * key_page + heads * key_head + token * key_token + dims,
            keys,
            mask=is_there,
        )
        tl.store(
            value_pages + page * value_page + heads * value_head + token * value_token + dims,
            values,
            mask=is_there,
        )
