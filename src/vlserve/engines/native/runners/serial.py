"""One request at a time, by the model's own forward pass: for a model that cannot be batched."""

from typing import Any

import torch

from vlserve.engines.native.scheduling.scheduler import Plan
from vlserve.models.base import ModelAdapter


class SerialRunner:
    """As Runner, for plans of one sequence whose prompt comes whole."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self._adapter = adapter
        self._past: Any = None

    @property
    def max_context_tokens(self) -> int:
        """The longest prompt and answer together."""
        most: int = self._adapter.text_config.max_position_embeddings
        return most

    @property
    def tower_threads(self) -> int:
        """The tower is part of the forward pass here, on no thread of its own."""
        return 1

    def enter_thread(self) -> None:
        """Nothing to set."""

    def run(self, plan: Plan) -> torch.Tensor:
        """`f32[1, vocab_size]`: the logits of the next token."""
        if plan.prefills:
            sequence = plan.prefills[0].sequence
            output = self._adapter.forward(sequence.prompt, sequence.token_ids, use_cache=True)
        else:
            newest = torch.tensor([plan.decodes[0].token_ids[-1:]])
            output = self._adapter.model(
                input_ids=newest.to(self._adapter.model.device),
                past_key_values=self._past,
                use_cache=True,
            )
        self._past = output.past_key_values
        logits: torch.Tensor = output.logits[:, -1]
        return logits.float()
