"""One step's work as tensors: a row for each running sequence, then the rows of each prompt."""

from collections.abc import Collection, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vlserve.engines.native.cpu.slot_cache import SlotCache
from vlserve.engines.native.cpu.threads import Team
from vlserve.engines.native.runners.masks import blocks_between, hidden_keys, show_blocks
from vlserve.engines.native.scheduling.pages import PAGE, round_up
from vlserve.engines.native.scheduling.scheduler import Prefill
from vlserve.engines.native.scheduling.sequence import Sequence

# Attention over a key length that is a multiple of this gives the same bits whatever the length.
LENGTH_STEP = 16


Masks = Mapping[int | None, torch.Tensor]


@dataclass(frozen=True, slots=True)
class QueryBlock:
    """Rows `start` to `end` of the batch, within one page of a prompt.

    They look at the first `num_keys` tokens of their slot; `masks` are `[end - start, num_keys]`,
    0 where a row may look and -inf elsewhere, one for each reach of the decoder's layers (None:
    any distance).
    """

    start: int
    end: int
    num_keys: int
    masks: Masks


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Rows `start` to `end` of the batch are a part of a prompt, cached in `slot` from `position`.

    `blocks` are its pages: a page's rows attend together, wherever the part begins or ends, so
    that no number depends on how a prompt was cut.
    """

    slot: int
    position: int
    start: int
    end: int
    blocks: tuple[QueryBlock, ...]


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """The first rows of the batch: the newest token of each running sequence.

    Sequence i owns cache slot `slots[i]` and writes position `positions[i]` there. Attention runs
    over the slots `first` to `last`; `masks` are `[last - first, 1, 1, key_length]`, else as in
    QueryBlock. `holes` says that some slot between has no sequence in this step.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    first: int
    last: int
    key_length: int
    masks: Masks
    holes: bool

    @property
    def num_rows(self) -> int:
        """Sequences that decode."""
        return self.slots.shape[0]


@dataclass(frozen=True, slots=True)
class Batch:
    """What the decoder is called with, T rows in all.

    `inputs_embeds` `[1, T, hidden_size]`, `position_ids` `[1, T]` or `[3, 1, T]`, `extras` what
    else this family's decoder takes; `logit_rows` are the rows whose logits are wanted, one a
    sequence. The last `num_padding` rows are nobody's. `team` shares the decode rows' attention.
    """

    cache: SlotCache
    inputs_embeds: torch.Tensor
    position_ids: torch.Tensor
    extras: Mapping[str, Any]
    logit_rows: torch.Tensor
    decode: DecodeRows | None
    prompts: tuple[PromptRows, ...]
    num_padding: int
    team: Team


def decode_rows(
    decodes: Seq[Sequence],
    *,
    dtype: torch.dtype,
    device: torch.device,
    reaches: Collection[int | None],
) -> DecodeRows:
    """Rows for sequences in slot order; `reaches` are the distances that layers attend over."""
    slots = [sequence.slot for sequence in decodes if sequence.slot is not None]
    positions = [sequence.num_tokens - 1 for sequence in decodes]
    first, last = slots[0], slots[-1] + 1
    key_length = round_up(max(positions) + 1, LENGTH_STEP)
    ends = np.zeros((last - first, 1), dtype=np.int64)
    ends[np.subtract(slots, first), 0] = positions
    keys = np.arange(key_length)
    masks = {
        reach: _mask(hidden_keys(ends, keys, reach), dtype, device)[:, None, None, :]
        for reach in reaches
    }
    return DecodeRows(
        slots=torch.tensor(slots, device=device),
        positions=torch.tensor(positions, device=device),
        first=first,
        last=last,
        key_length=key_length,
        masks=masks,
        holes=last - first != len(slots),
    )


def prompt_rows(
    prefill: Prefill,
    start: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    reaches: Collection[int | None],
) -> PromptRows:
    """Rows of a part of a prompt, the first of which is row `start` of the batch."""
    slot = prefill.sequence.slot
    assert slot is not None  # noqa: S101 - the scheduler gave it one
    blocks = prefill.sequence.prompt.blocks
    pages = []
    for page in range(prefill.start // PAGE, (prefill.end - 1) // PAGE + 1):
        first = max(prefill.start, page * PAGE)
        last = min(prefill.end, (page + 1) * PAGE)
        seen = blocks_between(blocks, first, last)
        num_keys = round_up(max((page + 1) * PAGE, *(block[1] for block in seen), 0))
        rows = np.arange(first, last)[:, None]
        keys = np.arange(num_keys)
        masks = {}
        for reach in reaches:
            is_hidden = hidden_keys(rows, keys, reach)
            show_blocks(is_hidden, first, seen)
            masks[reach] = _mask(is_hidden, dtype, device)
        offset = start - prefill.start
        pages.append(QueryBlock(first + offset, last + offset, num_keys, masks))
    end = start + prefill.end - prefill.start
    return PromptRows(slot, prefill.start, start, end, tuple(pages))


def _mask(
    is_hidden: npt.NDArray[np.bool_], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """-inf where hidden, else 0. Made by numpy, which holds on to the interpreter: each small
    tensor would let go of it, and wait until the vision tower's thread gives it back."""
    mask = np.where(is_hidden, np.float32(-np.inf), np.float32(0))
    return torch.from_numpy(mask).to(device=device, dtype=dtype)
