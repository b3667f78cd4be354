"""What batched runners share: the model, and what its decoder reads of prompts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AttentionInterface

from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling.memory import Memory
from vlserve.engines.native.scheduling.pages import PAGE
from vlserve.engines.native.scheduling.scheduler import Plan, Prefill
from vlserve.models.base import ModelAdapter, Seen
from vlserve.models.features import image_features
from vlserve.models.prompt import Prompt
from vlserve.models.transfer import to_device
from vlserve.types import Image, Message

# Below this many parameters a kernel is over before a second thread has begun: threads that wait
# for each other made steps 1.3 to 3 times longer on two cores.
MANY_PARAMETERS = 50_000_000


class Cache(Protocol):
    """Keys and values, `num_bytes` at most. `num_tokens`: the longest sequence that it holds."""

    num_pages: int
    num_tokens: int
    num_bytes: int


class BatchedRunner(ABC):
    """A Runner whose decoder attends by `function`, registered as `attention`, over a KV cache of
    the engine's."""

    is_batched = True

    def __init__(
        self, adapter: ModelAdapter, attention: str, function: Callable[..., Any], max_running: int
    ) -> None:
        self.max_running = max_running
        self._adapter = adapter
        self._device = torch.device(adapter.model.device)
        self._dtype: torch.dtype = adapter.model.dtype
        self._reaches = _reaches(adapter.text_config)
        self._is_small = adapter.model.num_parameters() < MANY_PARAMETERS
        self._num_threads = torch.get_num_threads()
        self._suppressed = torch.tensor(
            adapter.rules.suppressed, dtype=torch.long, device=self._device
        )
        self.enter_thread()
        AttentionInterface.register(attention, function)
        # The decoder alone: the vision tower attends as it always does.
        self._attention = attention
        self._plain_attention: str = adapter.text_config._attn_implementation
        adapter.text_config._attn_implementation = attention

    @property
    @abstractmethod
    def cache(self) -> Cache:
        """The KV cache."""

    @abstractmethod
    def memory(self) -> Memory:
        """See Runner."""

    @property
    @abstractmethod
    def step_tokens(self) -> int:
        """See Runner."""

    @abstractmethod
    def run(self, plan: Plan) -> Logits:
        """See Runner."""

    @property
    def cache_bytes(self) -> int:
        """See Runner."""
        return self.cache.num_bytes

    @property
    def cache_tokens(self) -> int:
        """See Runner."""
        return self.cache.num_pages * PAGE

    @property
    def max_context_tokens(self) -> int:
        """See Runner."""
        most: int = self._adapter.text_config.max_position_embeddings
        return min(most, self.cache.num_tokens)

    def prepare(self, messages: Sequence[Message[Image]], seen: Seen) -> Prompt:
        """See Runner."""
        return self._adapter.prepare(messages, seen)

    def enter_thread(self) -> None:
        """See Runner."""
        if self._device.type == "cpu" and self._is_small:
            torch.set_num_threads(1)

    @property
    def tower_threads(self) -> int:
        """See Runner."""
        if self._device.type != "cpu" or self._is_small:
            return 1
        return max(1, self._num_threads // 2)

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """The decoder attends as Transformers has it, for as long as the context lasts."""
        self.close()
        try:
            yield
        finally:
            self._adapter.text_config._attn_implementation = self._attention

    def close(self) -> None:
        """See Runner."""
        self._adapter.text_config._attn_implementation = self._plain_attention

    def _embedded(self, prefill: Prefill) -> torch.Tensor:
        """`[T, hidden_size]`."""
        sequence = prefill.sequence
        return self._adapter.embed(
            sequence.prompt, sequence.all_token_ids, prefill.start, prefill.end
        )

    def _positions(self, prefill: Prefill) -> torch.Tensor:
        """`i64[P, T]`: the prompt's own, and what follows it counted on."""
        prompt, start, end = prefill.sequence.prompt, prefill.start, prefill.end
        after = torch.arange(start, end, device=self._device).unsqueeze(0) + prompt.position_shift
        if prompt.positions is None:
            return after
        own = to_device(prompt.positions[:, start:end].copy(), self._device)
        return torch.cat((own, after[:, own.shape[1] :].expand(len(own), -1)), dim=1)

    def _deepstack(
        self, prefills: Sequence[Prefill], first_row: int, num_rows: int
    ) -> dict[str, Any]:
        """The decoder's arguments that add picture features to rows of prompts in deeper layers.

        The first prompt's first row is `first_row` of `num_rows`.
        """
        rows: list[int] = []
        parts: list[tuple[torch.Tensor, ...]] = []
        start = first_row
        for prefill in prefills:
            prompt = prefill.sequence.prompt
            first, last = np.searchsorted(prompt.places, (prefill.start, prefill.end))
            layers = [image_features(image).deepstack for image in prompt.images]
            if first < last and layers[0]:
                rows += (prompt.places[first:last] - prefill.start + start).tolist()
                joined = (torch.cat(each)[first:last] for each in zip(*layers, strict=True))
                parts.append(tuple(joined))
            start += prefill.end - prefill.start
        if not parts:
            return {}
        is_visual = torch.zeros(num_rows, dtype=torch.bool, device=self._device)
        is_visual.index_fill_(0, to_device(torch.tensor(rows), self._device), True)
        return {
            "visual_pos_masks": is_visual.unsqueeze(0),
            "deepstack_visual_embeds": [torch.cat(layer) for layer in zip(*parts, strict=True)],
        }


def joined(positions: Sequence[torch.Tensor]) -> torch.Tensor:
    """`[1, T]`, or `[3, 1, T]` where a prompt has three positions a token."""
    width = max(each.shape[0] for each in positions)
    whole = torch.cat([each.expand(width, -1) for each in positions], dim=1)
    return whole if width == 1 else whole.unsqueeze(1)


def _reaches(text_config: Any) -> tuple[int | None, ...]:
    """The distances over which the decoder's layers attend; None is any distance."""
    window: int | None = getattr(text_config, "sliding_window", None)
    return (None,) if window is None else (None, window)
