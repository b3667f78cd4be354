"""Which keys a row of attention may not look at: the one rule, for arrays and for tensors."""

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy.typing as npt
import torch

# numpy holds on to the interpreter's lock, a tensor lies where the model does.
Grid = TypeVar("Grid", npt.NDArray[Any], torch.Tensor)
Block = tuple[int, int]


def hidden_keys(queries: Grid, keys: Grid, window: int | None) -> Grid:
    """`bool`, in the shape that both broadcast to: whether the key at one position is hidden from
    the query at another, since it comes later or lies `window` or more before it.

    `queries` and `keys` are positions in the sequence; no window: any distance.
    """
    is_hidden = keys > queries
    if window is not None:
        is_hidden |= keys <= queries - window
    return is_hidden


def show_blocks(is_hidden: Grid, start: int, blocks: Iterable[Block]) -> None:
    """Show the tokens of each bidirectional block to each other, in place.

    `is_hidden` is `[num_queries, num_keys]`; its first query is token `start`, its first key token
    0.
    """
    end = start + len(is_hidden)
    for low, high in blocks:
        is_hidden[max(low, start) - start : min(high, end) - start, low:high] = False


def blocks_between(blocks: Iterable[Block], start: int, end: int) -> list[Block]:
    """Those of `blocks` that hold a token of `start` to `end`."""
    return [block for block in blocks if block[0] < end and start < block[1]]
