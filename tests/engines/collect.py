"""Run an engine and gather what it answers."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import mock

import torch

from vlserve.engines.base import Begun, Engine
from vlserve.engines.native.cpu.runner import SlotRunner
from vlserve.engines.native.engine import NativeEngine
from vlserve.engines.native.gpu.runner import PagedRunner
from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.settings import EngineSettings, ModelSettings
from vlserve.types import Chunk, FinishReason, Request, Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """All chunks of an answer as one."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    usage: Usage
    chunks: list[Chunk]


async def chunks_of(engine: Engine, request: Request) -> AsyncGenerator[Chunk]:
    """The pieces of an answer as they come, without Begun."""
    async with aclosing(engine.generate(request)) as items:
        async for item in items:
            if not isinstance(item, Begun):
                yield item


async def answer(engine: Engine, request: Request) -> Answer:
    """The whole answer; asserts that only the last chunk ends it."""
    chunks = [chunk async for chunk in chunks_of(engine, request)]
    last = chunks[-1]
    assert last.finish_reason is not None
    assert last.usage is not None
    assert all(c.finish_reason is None for c in chunks[:-1])
    so_far = [c.usage for c in chunks[:-1] if c.usage is not None]
    assert all(usage.prompt_tokens == last.usage.prompt_tokens for usage in so_far)
    assert len(so_far) == (len(chunks) > 1)
    token_ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
    assert last.usage.completion_tokens == len(token_ids)
    text = "".join(chunk.text for chunk in chunks)
    return Answer(text, token_ids, last.finish_reason, last.usage, chunks)


@asynccontextmanager
async def running(
    folder: Path,
    *,
    max_running: int = 4,
    cache_mib: int = 16,
    device: Literal["cpu", "cuda"] = "cpu",
) -> AsyncIterator[NativeEngine]:
    """A started native engine on a model folder, in float32."""
    engine = NativeEngine(
        ModelSettings(path=str(folder)),
        EngineSettings(
            device=device, dtype="float32", max_running=max_running, cache_mib=cache_mib
        ),
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def recorded_logits(engine: NativeEngine) -> dict[str, list[torch.Tensor]]:
    """Where the logits of every coming step are kept, by request."""
    kept: dict[str, list[torch.Tensor]] = {}
    pick = engine._sampler.pick

    def keep(logits: Logits, sequences: tuple[Sequence, ...]) -> list[int | Exception]:
        for row, sequence in zip(logits.rows(), sequences, strict=True):
            kept.setdefault(sequence.id, []).append(row)
        return pick(logits, sequences)

    engine._sampler.pick = keep  # type: ignore[method-assign]
    return kept


def on_pages() -> AbstractContextManager[object]:
    """Engines that start meanwhile run as on a GPU: pages, two calls a step, plain kernels."""
    return mock.patch("vlserve.engines.native.loading.runner_kind", return_value=PagedRunner)


def paged_runner_of(engine: NativeEngine) -> PagedRunner:
    """The runner of an engine that batches over pages."""
    assert isinstance(engine._runner, PagedRunner)
    return engine._runner


def runner_of(engine: NativeEngine) -> SlotRunner:
    """The runner of an engine that batches."""
    assert isinstance(engine._runner, SlotRunner)
    return engine._runner
