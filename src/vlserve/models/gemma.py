"""Gemma 3: the tokens of one picture see each other in both directions."""

from typing import Any

import torch

from vlserve.models.base import ModelAdapter, PromptInputs
from vlserve.models.prompt import Prompt


class Gemma3(ModelAdapter):
    """`Gemma3ForConditionalGeneration` and its processor."""

    def prompt_inputs(self, prompt: Prompt, arguments: dict[str, Any]) -> PromptInputs:
        """With a block for each picture."""
        inputs = super().prompt_inputs(prompt, arguments)
        ids = torch.tensor(prompt.token_ids, device=inputs.embeddings.device)
        is_image = ids == self.image_id
        if not is_image.any():
            return inputs
        starts = is_image & ~torch.roll(is_image, 1).index_fill(0, ids.new_zeros(1), False)
        blocks = torch.where(is_image, starts.cumsum(0) - 1, -1)
        return PromptInputs(inputs.embeddings, inputs.positions, blocks=blocks)
