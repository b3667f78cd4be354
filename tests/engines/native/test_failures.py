"""What fails, fails alone; what fails for all is said to all, and the engine goes on."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.asked import picture, request
from tests.engines.collect import Answer, answer, on_pages, runner_of, running
from tests.oracle import Oracle
from tests.waiting import until
from vlserve.engines.base import Engine
from vlserve.engines.native.cpu.batch import Batch
from vlserve.engines.native.cpu.runner import SlotRunner
from vlserve.engines.native.engine import NativeEngine
from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling.scheduler import Plan
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.supervisor import Supervisor
from vlserve.errors import Code, ServeError
from vlserve.models.base import Seen
from vlserve.models.errors import ModelError
from vlserve.models.prompt import Prompt, PromptImage
from vlserve.settings import EngineSettings, ModelSettings
from vlserve.types import Image, Message, Request, Role, SamplingParams

ROOT = Path(__file__).parents[3]
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


def lost_device() -> torch.AcceleratorError:
    return torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("part", ["step", "tower"])
async def test_a_lost_device_ends_the_engine_and_leaves_nobody_waiting(
    tiny_folder: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tiny_folder) as engine:

        def loses(*_: object) -> None:
            raise lost_device()

        owner = engine._runner if part == "step" else engine.intake.adapter
        monkeypatch.setattr(owner, "run" if part == "step" else "encode", loses)
        outcomes = await together(engine)
        assert all(isinstance(o, ServeError) and o.code is Code.UNAVAILABLE for o in outcomes)
        async with asyncio.timeout(5):
            await engine.ended()


async def test_an_error_that_spoils_nothing_ends_no_engine(tiny_folder: Path) -> None:
    """The control: the next request is answered."""
    async with running(tiny_folder) as engine:
        runner = runner_of(engine)
        for error in (RuntimeError("secret"), ValueError("secret")):
            with mock.patch.object(runner, "run", side_effect=error):
                outcomes = await together(engine)
            assert all(map(internal, outcomes))
            await answer(engine, REQUESTS[0])


async def test_a_process_whose_device_is_lost_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
    settings = EngineSettings(kind="native", device="cpu", max_running=2, cache_mib=8)
    engine = Supervisor(ModelSettings(), settings, module="tests.engines.native.lost_device")
    await engine.start()
    try:
        pid = engine.pid
        with pytest.raises(ServeError):
            await answer(engine, text("lose the device"))
        again = await answer(engine, text("how many shapes are there?"))
        assert again.token_ids
        assert engine.pid != pid
    finally:
        await engine.close()


def text(words: str, name: str = "", max_tokens: int = 12) -> Request:
    return Request(name, (Message(Role.USER, (words,)),), SamplingParams(max_tokens=max_tokens))


def short_of_memory(engine: NativeEngine, is_too_much: Callable[[Plan], bool]) -> list[Plan]:
    """From now on a plan that is too much fails as a GPU does; the plans that ran out."""
    failed: list[Plan] = []
    run = engine._runner.run

    def limited(plan: Plan) -> Logits:
        if is_too_much(plan):
            failed.append(plan)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB.")
        return run(plan)

    engine._runner.run = limited  # type: ignore[method-assign]
    return failed


def prefill_tokens(plan: Plan) -> int:
    return sum(prefill.end - prefill.start for prefill in plan.prefills)


on_a_cpu, on_a_gpu = nullcontext, on_pages
LONG = [text("how many shapes are there " * 12, str(i)) for i in range(4)]


@pytest.mark.parametrize("kind", [on_a_cpu, on_a_gpu])
@pytest.mark.parametrize(
    "is_too_much",
    [
        pytest.param(lambda plan: prefill_tokens(plan) > 64, id="prefill"),
        pytest.param(lambda plan: len(plan.decodes) > 2, id="decode"),
        pytest.param(lambda plan: len(plan.participants) > 2, id="either"),
    ],
)
async def test_a_step_without_memory_runs_smaller_and_nobody_notices(
    tiny_folder: Path,
    oracle: Oracle,
    kind: Callable[[], AbstractContextManager[object]],
    is_too_much: Callable[[Plan], bool],
) -> None:
    with kind():
        async with running(tiny_folder) as engine:
            failed = short_of_memory(engine, is_too_much)
            answers = await asyncio.gather(*(answer(engine, each) for each in LONG))
            await until(lambda: engine.load().num_free_slots == 4)
    assert failed
    wanted = [oracle.answer(each.messages, each.sampling) for each in LONG]
    assert [each.token_ids for each in answers] == wanted


@pytest.mark.parametrize("kind", [on_a_cpu, on_a_gpu])
async def test_a_prompt_that_no_memory_is_left_for_fails_alone(
    tiny_folder: Path, oracle: Oracle, kind: Callable[[], AbstractContextManager[object]]
) -> None:
    with kind():
        async with running(tiny_folder) as engine:
            failed = short_of_memory(
                engine, lambda plan: any(p.sequence.id == "2" for p in plan.prefills)
            )
            outcomes = await asyncio.gather(
                *(answer(engine, each) for each in LONG), return_exceptions=True
            )
            await until(lambda: engine.load().num_free_slots == 4)
            assert engine.load().num_running == engine.load().num_waiting == 0
    assert len(failed) > 1  # it was tried smaller first
    error = outcomes.pop(2)
    assert internal(error)
    assert "no memory left" in str(error)
    others = [each for each in LONG if each.id != "2"]
    assert [o.token_ids for o in outcomes if isinstance(o, Answer)] == [
        oracle.answer(each.messages, each.sampling) for each in others
    ]


async def test_a_sampler_without_memory_costs_nobody_an_answer(
    tiny_folder: Path, oracle: Oracle
) -> None:
    async with running(tiny_folder) as engine:
        pick, failed = engine._sampler.pick, 0

        def limited(logits: Logits, sequences: tuple[Sequence, ...]) -> list[int | Exception]:
            nonlocal failed
            if len(sequences) > 2:
                failed += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return pick(logits, sequences)

        engine._sampler.pick = limited  # type: ignore[method-assign]
        answers = await asyncio.gather(*(answer(engine, each) for each in LONG))
    assert failed
    wanted = [oracle.answer(each.messages, each.sampling) for each in LONG]
    assert [each.token_ids for each in answers] == wanted


async def test_a_decode_that_no_memory_is_left_for_ends_and_the_engine_goes_on(
    tiny_folder: Path,
) -> None:
    async with running(tiny_folder) as engine:
        short_of_memory(engine, lambda plan: any(s.id == "1" for s in plan.decodes))
        with pytest.raises(ServeError, match="no memory left"):
            await answer(engine, LONG[1])
        await answer(engine, LONG[0])


async def test_without_memory_for_the_check_a_start_says_what_to_lower(tiny_folder: Path) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    with (
        mock.patch.object(SlotRunner, "run", side_effect=error),
        pytest.raises(ModelError, match=r"and a step: set engine\.cache_mib lower"),
    ):
        async with running(tiny_folder):
            pass


async def test_a_prompt_that_cannot_fit_is_refused_before_its_pictures_are_seen(
    tiny_folder: Path,
) -> None:
    rng = random.Random(9)
    pictures = tuple(picture(rng) for _ in range(60))
    asked = Request("r", (Message(Role.USER, (*pictures, "what is there?")),))
    async with running(tiny_folder) as engine:
        with (
            mock.patch.object(engine.intake.adapter, "encode", side_effect=AssertionError),
            pytest.raises(ServeError, match="maximum context length") as refused,
        ):
            await answer(engine, asked)
    assert refused.value.code is Code.CONTEXT_LENGTH_EXCEEDED
