"""Which families are served, by the model type that a `config.json` names. Imports no torch."""

from typing import Final

EMBEDDED: Final = "embedded"
# Said wherever the embedded model answers: what it knows, and how another one is served.
DEMONSTRATION: Final = (
    "embedded is a demonstration model: it knows drawn shapes, their colours, places and numbers, "
    "and printed words, not photographs. Serve your own: vlserve serve --model.path FOLDER"
)
_GENERIC: Final = ("vlserve.models.base", "ModelAdapter")
# Module and class of each family's adapter.
ADAPTERS: Final = {
    "gemma3": ("vlserve.models.gemma", "Gemma3"),
    "idefics2": ("vlserve.models.idefics", "Idefics2"),
    "idefics3": _GENERIC,
    "internvl": _GENERIC,
    "llava": _GENERIC,
    "llava_next": _GENERIC,
    "qwen2_5_vl": ("vlserve.models.qwen", "QwenVL"),
    "qwen3_vl": ("vlserve.models.qwen", "QwenVL"),
    "smolvlm": _GENERIC,
}
SERVED: Final = ", ".join(sorted(ADAPTERS))
