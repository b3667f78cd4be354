"""Features of waiting and running pictures keep to a budget; nobody waits for good."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.asked import picture
from tests.engines.collect import Answer, answer, running
from tests.oracle import Oracle
from tests.waiting import until
from vlserve.engines.native.engine import NativeEngine
from vlserve.engines.native.vision.feature_budget import FeatureBudget
from vlserve.types import Message, Request, Role, SamplingParams

TOTAL = 100


async def taken(
    stack: AsyncExitStack, budget: FeatureBudget, tenant: str = "", **sizes: int
) -> None:
    async with asyncio.timeout(1):
        await stack.enter_async_context(budget.hold(tenant, sizes))


async def test_a_picture_that_several_hold_counts_once_and_not_across_tenants() -> None:
    budget = FeatureBudget(TOTAL)
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        await taken(first, budget, cat=40)
        await taken(second, budget, cat=40, dog=10)
        assert budget.num_left == 50
        await first.aclose()
        assert budget.num_left == 50
        await taken(first, budget, "other", cat=40)
        assert budget.num_left == 10
    assert budget.num_left == TOTAL


async def test_those_beyond_it_wait_in_order_and_who_leaves_gives_back() -> None:
    budget, order = FeatureBudget(TOTAL), []

    async def hold(name: str, size: int, gate: asyncio.Event) -> None:
        async with budget.hold("", {name: size}):
            order.append(name)
            await gate.wait()

    gate = asyncio.Event()
    first = asyncio.create_task(hold("first", 60, gate))
    large = asyncio.create_task(hold("large", 60, gate))
    small = asyncio.create_task(hold("small", 10, gate))
    await asyncio.sleep(0.01)
    assert order == ["first"]  # a small one does not pass by a large one for ever
    large.cancel()
    await asyncio.wait([large])
    await asyncio.sleep(0.01)
    assert order == ["first", "small"]
    again = asyncio.create_task(hold("again", 60, gate))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    await asyncio.sleep(0.01)
    assert order == ["first", "small", "again"]
    gate.set()
    await asyncio.gather(small, again)
    assert budget.num_left == TOTAL


async def test_one_that_wants_more_than_there_is_gets_it_alone() -> None:
    budget = FeatureBudget(TOTAL)
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        await taken(first, budget, a=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await second.enter_async_context(budget.hold("", {"huge": 3 * TOTAL}))
        await first.aclose()
        await taken(second, budget, huge=3 * TOTAL)
    assert budget.num_left == TOTAL


async def test_nothing_is_lost_whoever_comes_and_goes() -> None:
    rng, budget, most = random.Random(5), FeatureBudget(TOTAL), 0

    async def come(index: int) -> None:
        nonlocal most
        await asyncio.sleep(rng.random() * 0.05)
        keys = {rng.choice("abcdefgh") for _ in range(rng.randint(0, 2))}
        sizes = {key: 10 * (ord(key) % 4 + 1) for key in keys}
        async with budget.hold(rng.choice("xy"), sizes):
            most = max(most, TOTAL - budget.num_left)
            await asyncio.sleep(rng.random() * 0.005)

    tasks = [asyncio.create_task(come(index)) for index in range(300)]
    for task in tasks[::5]:
        asyncio.get_running_loop().call_later(rng.random() * 0.1, task.cancel)
    async with asyncio.timeout(30):
        await asyncio.wait(tasks)
    assert budget.num_left == TOTAL
    assert 50 < most <= TOTAL
    assert not budget._waiting
    assert not budget._holders


def asked(index: int) -> Request:
    image = picture(random.Random(index))
    turn = Message(Role.USER, (image, "how many shapes are there?"))
    return Request(str(index), (turn,), SamplingParams(max_tokens=6))


def held_tokens(engine: NativeEngine) -> int:
    """Of different pictures that sequences hold, as the scheduler has them."""
    images = {i.key: i for s in engine._scheduler.sequences for i in s.prompt.images}
    return sum(image.features.num_tokens for image in images.values() if image.features)


async def test_pictures_that_wait_keep_to_what_the_cache_holds(
    tiny_folder: Path, oracle: Oracle
) -> None:
    async with running(tiny_folder, max_running=1) as engine:
        one = (await engine.count(asked(0))).images[0].tokens
        assert engine.intake.features.num_left == engine._runner.cache_tokens
        engine.intake.features.num_left = total = 3 * one
        tasks = [asyncio.create_task(answer(engine, asked(index))) for index in range(12)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, held_tokens(engine))
            assert engine.load().num_waiting + engine.load().num_running <= 12
            await asyncio.sleep(0.0005)
        answers: list[Answer] = [task.result() for task in tasks]
        assert engine.intake.features.num_left == total
    assert one <= most <= total
    requests = [asked(index) for index in range(12)]
    wanted = [oracle.answer(each.messages, each.sampling) for each in requests]
    assert [each.token_ids for each in answers] == wanted


async def test_a_picture_that_is_not_kept_counts_for_each_who_asks_about_it(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request has features of its own then, although the picture is the same."""
    async with running(tiny_folder, max_running=1) as engine:
        monkeypatch.setattr(engine.intake.images, "get", lambda tenant, key: None)
        one = (await engine.count(asked(0))).images[0].tokens
        engine.intake.features.num_left = total = 3 * one
        requests = [replace(asked(0), id=str(index)) for index in range(12)]
        tasks = [asyncio.create_task(answer(engine, each)) for each in requests]
        most = 0
        while not all(task.done() for task in tasks):
            images = {id(i): i for s in engine._scheduler.sequences for i in s.prompt.images}
            most = max(most, sum(i.features.num_tokens for i in images.values() if i.features))
            await asyncio.sleep(0.0005)
        answers: list[Answer] = [task.result() for task in tasks]
        assert engine.intake.features.num_left == total
    assert one < most <= total
    assert len({tuple(each.token_ids) for each in answers}) == 1


async def test_who_disconnects_gives_its_features_back(tiny_folder: Path) -> None:
    async with running(tiny_folder, max_running=1) as engine:
        engine.intake.features.num_left = total = 40
        tasks = [asyncio.create_task(answer(engine, asked(index))) for index in range(8)]
        await until(lambda: engine.load().num_running)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await until(lambda: engine.intake.features.num_left == total)
        await answer(engine, asked(99))
        assert engine.intake.features.num_left == total


async def test_who_leaves_in_the_moment_in_which_room_comes_free_only_leaves() -> None:
    budget = FeatureBudget(TOTAL)

    async def hold() -> None:
        async with budget.hold("", {"late": TOTAL}):
            pytest.fail("it had left")

    async with AsyncExitStack() as first:
        await taken(first, budget, first=TOTAL)
        leaving = asyncio.create_task(hold())
        await asyncio.sleep(0)
        leaving.cancel()
        await first.aclose()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    assert budget.num_left == TOTAL
