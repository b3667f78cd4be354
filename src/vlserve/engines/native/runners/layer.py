"""One layer's part of a step, as both attentions take it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

# What Transformers hands to the attention of some decoders, and plain attention cannot do.
CHANGES_SCORES = ("softcap", "s_aux", "position_bias")


@dataclass(frozen=True, slots=True)
class LayerStep:
    """One layer's part of a step.

    `query` `[1, num_heads, T, head_dim]`, `key` and `value` `[1, num_kv_heads, T, head_dim]`;
    `cached_keys` and `cached_values` are the layer's cache, by slots or by pages.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    cached_keys: torch.Tensor
    cached_values: torch.Tensor
    scaling: float
    window: int | None

    @property
    def is_grouped(self) -> bool:
        """Whether several query heads share a key head."""
        return self.query.shape[1] != self.key.shape[1]


def refuse_changed_scores(arguments: Mapping[str, object]) -> None:
    """Raises NotImplementedError for a decoder whose scores are changed by more than scaling."""
    for name in CHANGES_SCORES:
        if arguments.get(name) is not None:
            raise NotImplementedError(f"attention with {name} is not batched")
