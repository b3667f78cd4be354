"""What fails, fails alone; what fails for all is said to all, and the engine goes on."""

import asyncio
import random
from pathlib import Path

import pytest
import torch

from tests.asked import request
from tests.engines.collect import answer, runner_of, running
from vlserve.engines.base import Engine
from vlserve.engines.native.cpu.batch import Batch
from vlserve.errors import Code, ServeError
from vlserve.models.base import Seen
from vlserve.models.prompt import Prompt, PromptImage
from vlserve.types import Image, Message, Request, Role, SamplingParams

REQUESTS = [
    request(random.Random(i), str(i), sampling=SamplingParams(max_tokens=12)) for i in range(4)
]


def internal(outcome: object) -> bool:
    return isinstance(outcome, ServeError) and outcome.code is Code.INTERNAL


async def test_a_prompt_that_breaks_fails_alone(tiny_folder: Path) -> None:
    async with running(tiny_folder) as engine:
        prepare = engine.intake.adapter.prepare

        def breaks(messages: tuple[Message[Image], ...], seen: Seen) -> Prompt:
            if messages is REQUESTS[1].messages:
                raise RuntimeError("secret")
            return prepare(messages, seen)

        engine.intake.adapter.prepare = breaks  # type: ignore[assignment, method-assign]
        await one_fails(engine, 1)


async def test_pictures_that_break_the_tower_fail_alone(tiny_folder: Path) -> None:
    async with running(tiny_folder) as engine:
        see = engine.intake.encoder._see
        keys = [[p.key for m in each.messages for p in m.pictures()] for each in REQUESTS]
        index = next(i for i, of_request in enumerate(keys) if of_request)

        def breaks(tenant: str, image: PromptImage) -> None:
            if image.key in keys[index]:
                raise RuntimeError("secret")
            see(tenant, image)

        engine.intake.encoder._see = breaks  # type: ignore[method-assign]
        await one_fails(engine, index)


async def one_fails(engine: Engine, index: int) -> None:
    outcomes = await together(engine)
    assert internal(outcomes[index])
    assert "secret" not in str(outcomes[index])
    assert sum(map(internal, outcomes)) == 1
    assert engine.load().num_free_slots == 4


async def together(engine: Engine) -> list[object]:
    answers = (answer(engine, each) for each in REQUESTS)
    return list(await asyncio.gather(*answers, return_exceptions=True))


async def test_a_step_that_breaks_is_said_to_all_in_it_and_the_engine_goes_on(
    tiny_folder: Path,
) -> None:
    async with running(tiny_folder) as engine:
        alone = [(await answer(engine, each)).token_ids for each in REQUESTS]
        forward = runner_of(engine).forward
        broken_steps = 0

        def breaks(batch: Batch) -> torch.Tensor:
            nonlocal broken_steps
            if batch.decode is not None and batch.decode.num_rows == 4 and not broken_steps:
                broken_steps += 1
                raise RuntimeError("secret")
            return forward(batch)

        runner_of(engine).forward = breaks  # type: ignore[method-assign]
        outcomes = await together(engine)
        assert broken_steps == 1
        assert all(map(internal, outcomes))
        assert engine.load().num_free_slots == 4
        assert [(await answer(engine, each)).token_ids for each in REQUESTS] == alone


async def test_a_step_thread_that_dies_leaves_nobody_waiting(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    async with running(tiny_folder, max_running=1) as engine:

        def dies() -> None:
            raise MemoryError

        engine._scheduler.plan = dies  # type: ignore[assignment, method-assign]
        outcomes = await together(engine)
        assert all(isinstance(o, ServeError) and o.code is Code.UNAVAILABLE for o in outcomes)
        with pytest.raises(ServeError) as told:
            await answer(engine, REQUESTS[0])
        assert told.value.retry_after_s is not None
        async with asyncio.timeout(5):
            await engine.ended()


async def test_an_answer_ends_with_the_context(tiny_folder: Path) -> None:
    endless = SamplingParams(max_tokens=4000)
    asked = Request("r", REQUESTS[0].messages, endless)
    async with running(tiny_folder) as engine:
        got = await answer(engine, asked)
        total = got.usage.prompt_tokens + got.usage.completion_tokens
        assert total == engine.info.max_context_tokens == 512
        assert got.finish_reason == "length"


async def test_text_far_beyond_the_context_is_refused_before_it_is_tokenised(
    tiny_folder: Path,
) -> None:
    async with running(tiny_folder) as engine:

        def never(*messages: object) -> Prompt:
            raise AssertionError("tokenised")

        engine.intake.adapter.prepare = never  # type: ignore[assignment, method-assign]
        with pytest.raises(ServeError, match="is 512 tokens, the request has at least") as refused:
            await answer(engine, Request("long", (Message(Role.USER, ("word " * 100_000,)),)))
    assert refused.value.code is Code.CONTEXT_LENGTH_EXCEEDED
    assert refused.value.field == "messages"


async def test_a_prompt_that_is_longer_than_the_context_is_told_how_long(tiny_folder: Path) -> None:
    async with running(tiny_folder) as engine:
        asked = Request("long", (Message(Role.USER, ("a " * 600,)),))
        count = await engine.count(asked)
        with pytest.raises(ServeError) as refused:
            await answer(engine, asked)
    assert refused.value.code is Code.CONTEXT_LENGTH_EXCEEDED
    wanted = f"maximum context length is 512 tokens, the request has {count.prompt_tokens}, "
    assert refused.value.message.startswith(wanted)


async def test_the_engine_lets_pictures_go_once_it_has_seen_them(tiny_folder: Path) -> None:
    asked = request(random.Random(5), "p", num_images=2, sampling=SamplingParams(max_tokens=12))
    async with running(tiny_folder) as engine:
        chunks = engine.generate(asked)
        await anext(chunks)
        (sequence,) = engine._scheduler.sequences
        assert [dict(image.inputs) for image in sequence.prompt.images] == [{}, {}]
        await chunks.aclose()
