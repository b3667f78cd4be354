"""What every engine promises."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, Protocol

from vlserve.types import GREEDY, Chunk, GenerationDefaults, Request, TokenCount

# When to try again after an engine that is closed: another process may be up by then.
RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Begun:
    """A request has left the queue and runs from now on. No part of its answer."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Fixed facts of a started engine. `weight_bytes` and `cache_bytes` are 0 for an engine that
    holds no model. `max_context_tokens` bounds prompt and answer together. `generation` is how
    answers are drawn where a request leaves that to the model."""

    model: str
    engine: str
    device: str
    dtype: str
    num_parameters: int
    weight_bytes: int
    cache_bytes: int
    max_context_tokens: int
    max_running: int
    is_batched: bool
    generation: GenerationDefaults = GREEDY


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine does right now. `num_free_slots` + `num_running` is constant between steps
    and `num_steps` only grows. `num_free_pages` are pages of the KV cache that can be had, 0 for an
    engine that has none."""

    num_running: int
    num_waiting: int
    num_free_slots: int
    num_steps: int
    num_free_pages: int = 0


class Engine(Protocol):
    """Answers requests.

    `generate` yields at least one Chunk, the last with a finish reason. Before the first Chunk it
    may yield Begun, as the request leaves the queue: after a crash it tells the requests that may
    have caused it from those that only waited. The first Chunk with a token and the last one
    have `usage`, and `timings`, of the stages that are the engine's. Closing the iterator (or
    cancelling the task that reads it) drops the request before the engine's next step.
    Before its first Chunk it raises ServeError: CONTEXT_LENGTH_EXCEEDED naming "messages" for a
    prompt that does not fit, INVALID_ARGUMENT naming "guide" for a guide that cannot be followed.
    It raises ServeError(UNAVAILABLE) when the engine closes or dies underneath, and
    ServeError(INTERNAL) when this one request failed; the others are not disturbed.
    """

    async def start(self) -> None:
        """Load whatever the engine needs. Called once, before anything else."""

    @property
    def info(self) -> EngineInfo:
        """Facts of the started engine."""

    def generate(self, request: Request) -> AsyncGenerator[Chunk | Begun]:
        """The answer to one request, piece by piece."""

    async def count(self, request: Request) -> TokenCount:
        """What the prompt of a request takes, without running the model or waiting for a slot.

        Its sampling is not looked at. A prompt that is longer than the context is counted as well,
        but for one whose text is so long that it cannot fit. Raises ServeError as `generate` does.
        """

    def load(self) -> Load:
        """What runs and waits now."""

    async def ended(self) -> None:
        """Returns when the engine no longer answers: it was closed, or died."""

    async def close(self) -> None:
        """End running requests with UNAVAILABLE and let everything go. May be called twice."""
