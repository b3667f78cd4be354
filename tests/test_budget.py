"""What many requests hold together stays within its bound, and nobody is forgotten."""

import asyncio
import random
from contextlib import aclosing

import pytest

from tests.doors.grpc.live import png
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.budget import Budget
from vlserve.media.decoders import Decoders, Encoded, Pixels
from vlserve.service.service import Service
from vlserve.settings import LimitSettings
from vlserve.types import ChatRequest, ImageRef, Message, Role

TOTAL = 100


async def test_shares_stay_within_the_total_and_cancelled_ones_come_back() -> None:
    rng = random.Random(0)
    budget = Budget(TOTAL)
    held = most = 0
    order: list[int] = []

    async def take(index: int) -> None:
        nonlocal held, most
        amount = rng.randint(1, 150)
        async with budget.share(amount) as share:
            order.append(index)
            held += min(amount, TOTAL)
            most = max(most, held)
            await asyncio.sleep(rng.random() / 1000)
            held -= min(amount, TOTAL)
            share.give_back()
            share.give_back()
            await asyncio.sleep(rng.random() / 1000)

    tasks = [asyncio.create_task(take(i)) for i in range(400)]
    for task in rng.sample(tasks, 100):
        await asyncio.sleep(0.001)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert TOTAL // 2 < most <= TOTAL
    assert order == sorted(order)
    assert budget.num_left == TOTAL


@pytest.mark.parametrize(("bound", "decoded"), [(2 * 320 * 240, 3), (200_000_000, 6)])
async def test_pictures_wait_encoded(
    bound: int, decoded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Encoded] = []
    frames = Decoders.frames

    async def counted(self: Decoders, what: Encoded) -> list[Pixels]:
        loads.append(what)
        return await frames(self, what)

    monkeypatch.setattr(Decoders, "frames", counted)
    picture = ImageRef(png(size=(320, 240)))
    service = Service(ScriptedEngine(num_slots=1), LimitSettings(max_decoded_pixels=bound))
    service.open()

    async def ask(text: str) -> str:
        chat = ChatRequest((Message(Role.USER, (picture, text)),))
        return "".join([chunk.text async for chunk in service.chat(chat)])

    holding = ChatRequest((Message(Role.USER, (picture, "hold")),))
    async with aclosing(service.chat(holding)) as held:
        # Its picture was seen: what it took is free again.
        await anext(held)
        waiting = [asyncio.create_task(ask("a b")) for _ in range(5)]
        await until(lambda: len(loads) == decoded)
        await asyncio.sleep(0.3)
        assert len(loads) == decoded
    answers = await asyncio.gather(*waiting)
    assert all(answer.endswith("a b ") for answer in answers)
    assert len(loads) == 6
    service.close()


async def test_who_leaves_in_the_moment_of_its_turn_only_leaves() -> None:
    budget = Budget(TOTAL)
    async with budget.share(TOTAL) as share:
        waiting = asyncio.create_task(budget.share(1).__aenter__())
        await until(lambda: bool(budget._waiting))
        waiting.cancel()
        share.give_back()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert budget.num_left == TOTAL


async def test_who_wants_nothing_waits_for_nobody() -> None:
    budget = Budget(TOTAL)
    async with budget.share(TOTAL), asyncio.timeout(5):
        waiting = asyncio.create_task(budget.share(1).__aenter__())
        await until(lambda: bool(budget._waiting))
        async with budget.share(0):
            assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert budget.num_left == TOTAL
