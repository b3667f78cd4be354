"""Products of matrices in bfloat16 where the processor has instructions for it: about twice as
fast there. Weights, sums, losses and attention stay in float32."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ATTENTION = "sdpa_in_float32"


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *rest: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    # Its gradient in bfloat16 takes six times as long on a CPU.
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), *rest, **options
        )


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


def is_half_fast() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def mixed() -> AbstractContextManager[Any]:
    """A context for the forward pass of a model that went through `with_float32_attention`."""
    return torch.autocast("cpu", torch.bfloat16, enabled=is_half_fast())


def with_float32_attention(model: PreTrainedModel) -> None:
    """Keep the attention of `model` in float32 under `mixed`; changes it in place."""
    model.set_attn_implementation(_ATTENTION)
