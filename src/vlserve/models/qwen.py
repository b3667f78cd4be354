"""Qwen3-VL: picture features enter several layers of the decoder."""

from typing import Any

from vlserve.models.base import ModelAdapter, PromptInputs
from vlserve.models.prompt import Prompt


class Qwen3VL(ModelAdapter):
    """`Qwen3VLForConditionalGeneration` and its processor."""

    def prompt_inputs(self, prompt: Prompt, arguments: dict[str, Any]) -> PromptInputs:
        """With the features that deeper layers add to picture tokens."""
        inputs = super().prompt_inputs(prompt, arguments)
        if arguments.get("deepstack_visual_embeds") is None:
            return inputs
        return PromptInputs(
            inputs.embeddings,
            inputs.positions,
            is_visual=arguments["visual_pos_masks"][0],
            deepstack=tuple(arguments["deepstack_visual_embeds"]),
        )
