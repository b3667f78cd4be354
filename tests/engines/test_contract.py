"""What every engine promises, held against each of them."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.asked import picture, request
from tests.engines.collect import answer
from tests.timed import told
from tests.tiny_model import write_tiny_model
from vlserve.engines.base import Begun, Engine
from vlserve.engines.catalog import ENGINES, make_engine
from vlserve.engines.supervisor import Supervisor
from vlserve.engines.worker import BEAT_S
from vlserve.errors import Code, ServeError
from vlserve.settings import EngineSettings, ModelSettings
from vlserve.types import (
    Chunk,
    FinishReason,
    Guide,
    GuideKind,
    Message,
    Request,
    Role,
    SamplingParams,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
MAX_RUNNING = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[(kind, make) for make in (make_engine, Supervisor) for kind in ENGINES],
    ids=[*ENGINES, *(f"walled {kind}" for kind in ENGINES)],
)
async def engine(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Engine]:
    kind, make = request.param
    settings = EngineSettings(kind=kind, max_running=MAX_RUNNING, cache_mib=16)
    engine: Engine = make(ModelSettings(path=str(folder), name="served"), settings)
    await engine.start()
    yield engine
    await engine.close()


def asked(text: str = "what is this?", max_tokens: int = 30, **sampling: object) -> Request:
    rng = random.Random(text)
    params = SamplingParams(max_tokens=max_tokens, **sampling)  # type: ignore[arg-type]
    return Request("r", (Message(Role.USER, (picture(rng), text)),), params)


def asked_long(engine: Engine, name: str, max_tokens: int = 8000) -> Request:
    """A question whose answer is still being made while its reader does something else: an echo
    behind the wall does not wait for it, and says thousands of words in a tenth of a second."""
    share = 2 if engine.info.engine == "echo" else 16
    return asked(f"{name} " + "word " * (engine.info.max_context_tokens // share), max_tokens)


async def settle(engine: Engine, num_steps: int = 1) -> None:
    """Wait until the engine has stepped, or has nothing left to step for."""
    if isinstance(engine, Supervisor):  # what it says of the process is as old as a beat
        await asyncio.sleep(2 * BEAT_S)
    start = engine.load().num_steps
    while engine.load().num_running and engine.load().num_steps < start + num_steps:
        await asyncio.sleep(0.001)


async def test_info_and_load_at_rest(engine: Engine) -> None:
    assert engine.info.model == "served"
    assert engine.info.max_running == MAX_RUNNING
    load = engine.load()
    assert (load.num_running, load.num_waiting, load.num_free_slots) == (0, 0, MAX_RUNNING)


async def test_an_answer_ends_once_and_repeats(engine: Engine) -> None:
    first = await answer(engine, asked())
    assert first.text == (await answer(engine, asked())).text
    assert first.usage.prompt_tokens > first.usage.image_tokens > 0


async def test_begun_comes_before_the_first_piece_or_not_at_all(engine: Engine) -> None:
    items = [item async for item in engine.generate(asked())]
    assert Begun() not in items[1:]
    assert all(isinstance(item, Chunk) for item in items[1:])
    # In its own process an engine says it; the supervisor keeps it for itself.
    assert (items[0] == Begun()) == (not isinstance(engine, Supervisor))


@pytest.mark.parametrize("max_tokens", [1, 2, 30])
async def test_times_come_with_the_first_token_and_with_the_last_piece(
    engine: Engine, max_tokens: int
) -> None:
    chunks = [chunk async for chunk in engine.generate(asked(max_tokens=max_tokens))]
    first, last = told(chunks)
    assert last.prefill_s > 0
    assert first.fetch_s == first.media_decode_s == 0, "an engine knows nothing of them"
    assert (first is last) == (max_tokens == 1)


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
async def test_max_tokens_ends_with_length(engine: Engine, max_tokens: int) -> None:
    got = await answer(engine, asked(max_tokens=max_tokens))
    assert got.finish_reason is FinishReason.LENGTH
    assert got.usage.completion_tokens == max_tokens


async def test_a_stop_string_ends_the_answer_and_is_not_in_it(engine: Engine) -> None:
    whole = await answer(engine, asked())
    for start, length in ((1, 1), (2, 3), (len(whole.text) // 2, 2)):
        stop = whole.text[start : start + length]
        got = await answer(engine, asked(stop=(stop,)))
        assert got.text == whole.text[: whole.text.find(stop)]
        assert got.finish_reason is FinishReason.STOP


async def test_more_requests_than_slots_all_finish(engine: Engine) -> None:
    requests = [asked(f"question {i}") for i in range(4 * MAX_RUNNING)]
    alone = [(await answer(engine, each)).text for each in requests]
    tasks = [asyncio.create_task(answer(engine, each)) for each in requests]
    await asyncio.sleep(0)
    assert engine.load().num_waiting > 0
    while not all(task.done() for task in tasks):
        load = engine.load()
        assert load.num_running + load.num_free_slots == MAX_RUNNING
        await asyncio.sleep(0.002)
    assert [task.result().text for task in tasks] == alone


async def test_closing_the_iterator_frees_the_slot_within_a_step(engine: Engine) -> None:
    requests = [asked_long(engine, f"question {i}") for i in range(MAX_RUNNING)]
    streams = [engine.generate(each) for each in requests]
    for stream in streams:
        await anext(stream)
    for stream in streams:
        await stream.aclose()
    await settle(engine, 2)
    assert engine.load().num_free_slots == MAX_RUNNING


async def test_a_cancelled_reader_who_waits_leaves_at_once(engine: Engine) -> None:
    running = [engine.generate(asked_long(engine, f"{i}")) for i in range(MAX_RUNNING)]
    for stream in running:
        await anext(stream)
    waiting = asyncio.create_task(answer(engine, asked("late")))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for stream in running:
        await stream.aclose()
    await settle(engine, 2)
    load = engine.load()
    assert (load.num_waiting, load.num_free_slots) == (0, MAX_RUNNING)


async def test_a_prompt_that_never_fits_is_named(engine: Engine) -> None:
    with pytest.raises(ServeError) as caught:
        await answer(engine, asked("word " * (engine.info.max_context_tokens + 1)))
    assert caught.value.code is Code.CONTEXT_LENGTH_EXCEEDED
    assert caught.value.field == "messages"
    assert engine.load().num_free_slots == MAX_RUNNING


async def test_a_count_is_that_of_the_answer(engine: Engine) -> None:
    rng = random.Random(5)
    for i in range(8):
        wanted = request(rng, f"count {i}")
        count = await engine.count(wanted)
        usage = (await answer(engine, wanted)).usage
        assert (count.prompt_tokens, count.image_tokens) == (
            usage.prompt_tokens,
            usage.image_tokens,
        )
        pictures = [each for message in wanted.messages for each in message.pictures()]
        assert [(c.width, c.height) for c in count.images] == [
            (each.width, each.height) for each in pictures
        ]
        assert all(each.tokens > 0 and each.tiles > 0 for each in count.images)
        assert sum(each.tokens for each in count.images) <= count.image_tokens


async def test_a_count_waits_for_no_slot_and_takes_none(engine: Engine) -> None:
    running = [engine.generate(asked_long(engine, f"{i}")) for i in range(2 * MAX_RUNNING)]
    readers = [asyncio.create_task(anext(stream)) for stream in running]
    await asyncio.wait(readers[:MAX_RUNNING])
    assert (await engine.count(asked())).prompt_tokens > 0
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    for stream in running:
        await stream.aclose()
    await settle(engine, 2)
    assert engine.load().num_free_slots == MAX_RUNNING


async def test_a_cancelled_count_leaves_nothing_behind(engine: Engine) -> None:
    for i in range(20):
        counting = asyncio.create_task(engine.count(asked(f"question {i}")))
        await asyncio.sleep(0.001 * (i % 4))
        counting.cancel()
        await asyncio.wait([counting])
    await settle(engine)
    assert engine.load().num_waiting == 0
    assert (await engine.count(asked())).images


async def test_a_prompt_that_does_not_fit_is_counted(engine: Engine) -> None:
    longest = engine.info.max_context_tokens
    assert (await engine.count(asked("w " * (longest + 1)))).prompt_tokens > longest


@pytest.mark.parametrize(
    "sampling", [{"guide": Guide(GuideKind.REGEX, "[ab]{3}")}, {"logprobs": 2}]
)
async def test_guides_and_logprobs_are_served_or_refused_by_name(
    engine: Engine, sampling: dict[str, Any]
) -> None:
    wanted = asked(max_tokens=5, **sampling)
    if engine.info.engine == "echo":
        with pytest.raises(ServeError) as caught:
            await answer(engine, wanted)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert caught.value.field == next(iter(sampling))
        return
    got = await answer(engine, wanted)
    assert re.fullmatch("[ab]{3}", got.text) or "guide" not in sampling
    pieces = b"".join(each.data for chunk in got.chunks for each in chunk.logprobs)
    assert pieces == (got.text.encode() if "logprobs" in sampling else b"")


async def test_two_hundred_cancels_disturb_nobody(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(3)
    steady = [request(rng, f"steady {i}", sampling=SamplingParams(max_tokens=40)) for i in range(4)]
    alone = [(await answer(engine, each)).text for each in steady]
    cancelled = 0

    async def give_up(index: int) -> None:
        nonlocal cancelled
        await asyncio.sleep(rng.random() * 0.8)
        long = asked(f"{index}", max_tokens=100)
        if index % 2:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.random() * 0.05):
                    await answer(engine, long)
        else:
            stream = engine.generate(long)
            for _ in range(rng.randint(0, 4)):
                with contextlib.suppress(StopAsyncIteration):
                    await anext(stream)
            await stream.aclose()
        cancelled += 1

    async def keep_on(index: int) -> list[str]:
        texts = []
        for _ in range(4):
            await asyncio.sleep(rng.random() * 0.1)
            texts.append((await answer(engine, steady[index])).text)
        return texts

    quitters = asyncio.gather(*map(give_up, range(200)))
    kept = await asyncio.gather(*map(keep_on, range(len(steady))))
    await quitters
    await settle(engine, 2)
    await asyncio.sleep(0.05)
    load = engine.load()
    with capsys.disabled():
        print(f"{engine.info.engine}: cancelled {cancelled}, free slots {load.num_free_slots}")
    assert kept == [[text] * 4 for text in alone]
    assert (load.num_running, load.num_waiting, load.num_free_slots) == (0, 0, MAX_RUNNING)


# The last, since all of them share an engine: to start one in a process takes seconds.
async def test_close_ends_everyone_with_unavailable(engine: Engine) -> None:
    tasks = [
        asyncio.create_task(answer(engine, asked_long(engine, f"{i}")))
        for i in range(2 * MAX_RUNNING)
    ]
    await asyncio.sleep(0)
    while engine.load().num_steps < 2:
        await asyncio.sleep(0)
    await engine.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(o, ServeError) and o.code is Code.UNAVAILABLE for o in outcomes)
    with pytest.raises(ServeError) as caught:
        await answer(engine, asked())
    assert caught.value.code is Code.UNAVAILABLE
    with pytest.raises(ServeError) as caught:
        await engine.count(asked())
    assert caught.value.code is Code.UNAVAILABLE
    await engine.close()
