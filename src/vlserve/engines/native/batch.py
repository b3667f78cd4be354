"""One step's work as tensors: a row for each running sequence, then the rows of each prompt."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from vlserve.engines.native.kv_cache import KVCache
from vlserve.engines.native.sequence import Sequence
from vlserve.engines.native.slots import round_up


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Rows `start` to `end` of the batch are a whole prompt, cached in `slot`."""

    slot: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """The first rows of the batch: the newest token of each running sequence.

    Sequence i owns cache slot `slots[i]` and writes position `positions[i]` there. Attention runs
    over the slots `first` to `last`; `mask` is `[last - first, 1, 1, key_length]`, 0 where a row
    may look and -inf elsewhere. `holes` says that some slot between has no sequence in this step.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    first: int
    last: int
    key_length: int
    mask: torch.Tensor
    holes: bool

    @property
    def num_rows(self) -> int:
        """Sequences that decode."""
        return self.slots.shape[0]


@dataclass(frozen=True, slots=True)
class Batch:
    """What the decoder is called with, T rows in all.

    `inputs_embeds` `[1, T, hidden_size]`, `position_ids` `[1, T]`; `logit_rows` are the rows
    whose logits are wanted, one a sequence. The last `num_padding` rows are nobody's.
    """

    cache: KVCache
    inputs_embeds: torch.Tensor
    position_ids: torch.Tensor
    logit_rows: torch.Tensor
    decode: DecodeRows | None
    prompts: tuple[PromptRows, ...]
    num_padding: int


def decode_rows(
    decodes: Seq[Sequence], *, dtype: torch.dtype, device: torch.device, window: int | None
) -> DecodeRows:
    """Rows for sequences in slot order; `window` is the number of tokens attention reaches back."""
    slots = [sequence.slot for sequence in decodes if sequence.slot is not None]
    positions = [sequence.num_tokens - 1 for sequence in decodes]
    first, last = slots[0], slots[-1] + 1
    key_length = round_up(max(positions) + 1)
    newest = [0] * (last - first)
    for slot, position in zip(slots, positions, strict=True):
        newest[slot - first] = position
    ends = torch.tensor(newest, device=device).unsqueeze(1)
    keys = torch.arange(key_length, device=device)
    is_hidden = keys > ends
    if window is not None:
        is_hidden |= keys <= ends - window
    mask = torch.zeros(is_hidden.shape, dtype=dtype, device=device)
    mask.masked_fill_(is_hidden, float("-inf"))
    return DecodeRows(
        slots=torch.tensor(slots, device=device),
        positions=torch.tensor(positions, device=device),
        first=first,
        last=last,
        key_length=key_length,
        mask=mask[:, None, None, :],
        holes=last - first != len(slots),
    )
