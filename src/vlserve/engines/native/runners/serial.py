"""One request at a time, by the model's own forward pass: for a model that cannot be batched."""

from collections.abc import Sequence
from typing import Any

import torch

from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling.memory import WholeMemory
from vlserve.engines.native.scheduling.scheduler import IDLE_STEP_TOKENS, Plan
from vlserve.models.base import ModelAdapter, Seen
from vlserve.models.prompt import Prompt
from vlserve.types import Image, Message


class SerialRunner:
    """A Runner for plans of one sequence whose prompt comes whole."""

    is_batched = False
    max_running = 1
    step_tokens = IDLE_STEP_TOKENS
    cache_bytes = 0
    # The tower is part of the forward pass.
    tower_threads = 1

    def __init__(self, adapter: ModelAdapter) -> None:
        self._adapter = adapter
        self._past: Any = None
        device = adapter.model.device
        self._suppressed = torch.tensor(adapter.rules.suppressed, dtype=torch.long, device=device)

    @property
    def max_context_tokens(self) -> int:
        """See Runner."""
        most: int = self._adapter.text_config.max_position_embeddings
        return most

    @property
    def cache_tokens(self) -> int:
        """See Runner."""
        return self.max_context_tokens

    def prepare(self, messages: Sequence[Message[Image]], seen: Seen) -> Prompt:
        """See Runner. The forward pass sees all pictures itself, known ones too."""
        del seen
        return self._adapter.prepare_whole(messages)

    def memory(self) -> WholeMemory:
        """See Runner."""
        return WholeMemory()

    def enter_thread(self) -> None:
        """See Runner."""

    def run(self, plan: Plan) -> Logits:
        """See Runner."""
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
        return Logits(output.logits[:, -1], self._suppressed)

    def close(self) -> None:
        """See Runner."""
