"""Rotary positions that must not depend on who else is in a step."""

from torch import nn


def fix_dynamic_rope(decoder: nn.Module) -> None:
    """Give a decoder with dynamic RoPE the fixed one that it is within its context.

    Transformers scales its frequencies by the longest sequence of a call, once that is longer than
    `max_position_embeddings`; to see whether it is, each call reads a number back from the device,
    and such a step cannot be recorded. The engine serves no longer sequence.
    """
    for module in decoder.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, dict):  # one for each type of layer
            module.rope_type = {layer: _fixed(kind) for layer, kind in kinds.items()}  # type: ignore[assignment]
        elif isinstance(kinds, str):
            module.rope_type = _fixed(kinds)  # type: ignore[assignment]


def depends_on_longest(decoder: nn.Module) -> bool:
    """Whether the positions of all sequences of a call change with the longest of them: LongRoPE,
    which has other frequencies past `original_max_position_embeddings`."""
    kinds = (getattr(module, "rope_type", None) for module in decoder.modules())
    return any("longrope" in (k.values() if isinstance(k, dict) else (k,)) for k in kinds)


def _fixed(kind: str) -> str:
    return "default" if "dynamic" in kind else kind
