"""What every runner promises to the engine."""

from collections.abc import Sequence
from typing import Protocol

from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling.memory import Memory
from vlserve.engines.native.scheduling.scheduler import Plan
from vlserve.models.base import Seen
from vlserve.models.prompt import Prompt
from vlserve.types import Image, Message


class Runner(Protocol):
    """Computes the steps of one loaded model.

    Used by one thread, which calls `enter_thread` first, under `torch.inference_mode`; `prepare`
    may be called from any thread.
    """

    @property
    def is_batched(self) -> bool:
        """Whether sequences run together, by the engine's own attention."""

    @property
    def max_running(self) -> int:
        """The most sequences of a plan."""

    @property
    def max_context_tokens(self) -> int:
        """The longest prompt and answer together."""

    @property
    def step_tokens(self) -> int:
        """The most prompt tokens of a step in which others decode."""

    @property
    def cache_bytes(self) -> int:
        """The bound of its KV cache in bytes; 0 where the engine owns none."""

    @property
    def cache_tokens(self) -> int:
        """Tokens that all running sequences have together at most."""

    @property
    def tower_threads(self) -> int:
        """Threads of a CPU for the vision tower. A constant: some of its kernels have other last
        bits with another number."""

    def prepare(self, messages: Sequence[Message[Image]], seen: Seen) -> Prompt:
        """The prompt of a conversation, as its plans want it. Raises as `ModelAdapter.prepare`."""

    def memory(self) -> Memory:
        """A new account of the KV cache: nothing is allocated and nothing is cached."""

    def enter_thread(self) -> None:
        """Called by each thread that uses the runner: torch counts threads for each apart."""

    def run(self, plan: Plan) -> Logits:
        """Compute a plan: a row for each of `plan.sequences`. The rows are read before the next
        call. A plan that failed may be run again, whole or in part."""

    def close(self) -> None:
        """Give the model its own attention back."""
