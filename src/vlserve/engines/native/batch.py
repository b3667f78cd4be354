"""One step's work as tensors: a row for each running sequence, then the rows of each prompt."""

from collections.abc import Collection, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch

from vlserve.engines.native.kv_cache import KVCache
from vlserve.engines.native.sequence import Sequence
from vlserve.engines.native.slots import round_up


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Rows `start` to `end` of the batch are a whole prompt, cached in `slot`.

    `blocks` as in PromptInputs.
    """

    slot: int
    start: int
    end: int
    blocks: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """The first rows of the batch: the newest token of each running sequence.

    Sequence i owns cache slot `slots[i]` and writes position `positions[i]` there. Attention runs
    over the slots `first` to `last`; `masks` are `[last - first, 1, 1, key_length]`, 0 where a row
    may look and -inf elsewhere, one for each reach of the decoder's layers (None: any distance).
    `holes` says that some slot between has no sequence in this step.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    first: int
    last: int
    key_length: int
    masks: Mapping[int | None, torch.Tensor]
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
    sequence. The last `num_padding` rows are nobody's.
    """

    cache: KVCache
    inputs_embeds: torch.Tensor
    position_ids: torch.Tensor
    extras: Mapping[str, Any]
    logit_rows: torch.Tensor
    decode: DecodeRows | None
    prompts: tuple[PromptRows, ...]
    num_padding: int


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
    key_length = round_up(max(positions) + 1)
    newest = [0] * (last - first)
    for slot, position in zip(slots, positions, strict=True):
        newest[slot - first] = position
    ends = torch.tensor(newest, device=device).unsqueeze(1)
    keys = torch.arange(key_length, device=device)
    masks = {}
    for reach in reaches:
        is_hidden = keys > ends
        if reach is not None:
            is_hidden |= keys <= ends - reach
        mask = torch.zeros(is_hidden.shape, dtype=dtype, device=device)
        masks[reach] = mask.masked_fill_(is_hidden, float("-inf"))[:, None, None, :]
    return DecodeRows(
        slots=torch.tensor(slots, device=device),
        positions=torch.tensor(positions, device=device),
        first=first,
        last=last,
        key_length=key_length,
        masks=masks,
        holes=last - first != len(slots),
    )
