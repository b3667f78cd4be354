"""Slots are never owned twice, and the cache stays within its bound."""

import asyncio
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.asked import request
from tests.engines.collect import answer, runner_of, running
from vlserve.engines.native.scheduling.slots import Slots
from vlserve.types import SamplingParams


@given(st.lists(st.booleans(), max_size=60))
def test_a_slot_has_one_owner(takes: list[bool]) -> None:
    slots, owned = Slots(5), set[int]()
    for take in takes:
        if take and slots.num_free:
            slot = slots.allocate()
            assert slot not in owned
            assert slot == min(set(range(5)) - owned)
            owned.add(slot)
        elif not take and owned:
            slots.release(owned.pop())
        assert slots.num_free + len(owned) == 5


def test_giving_back_twice_is_an_error() -> None:
    slots = Slots(2)
    slot = slots.allocate()
    slots.release(slot)
    with pytest.raises(ValueError, match="free already"):
        slots.release(slot)


async def test_with_a_small_cache_work_waits_and_finishes(tiny_folder: Path) -> None:
    rng = random.Random(4)
    requests = [request(rng, str(i), sampling=SamplingParams(max_tokens=12)) for i in range(8)]
    async with running(tiny_folder, max_running=8, cache_mib=1) as engine:
        assert engine.info.cache_bytes <= 1024 * 1024
        alone = [(await answer(engine, each)).text for each in requests]
        tasks = [asyncio.create_task(answer(engine, each)) for each in requests]
        most_waiting = 0
        while not all(task.done() for task in tasks):
            most_waiting = max(most_waiting, engine.load().num_waiting)
            await asyncio.sleep(0.001)
        assert [task.result().text for task in tasks] == alone
        assert most_waiting >= 2


async def test_poisoned_free_slots_change_nothing(tiny_folder: Path) -> None:
    asked = request(random.Random(4), "r", sampling=SamplingParams(max_tokens=30))
    async with running(tiny_folder) as engine:
        clean = await answer(engine, asked)
        cache = runner_of(engine).cache
        for tensor in (*cache.keys, *cache.values):
            assert not tensor.any(), "a slot that was let go is zero"
            tensor[1:].fill_(math.nan)
        assert (await answer(engine, asked)).token_ids == clean.token_ids


async def test_what_a_dead_request_left_does_not_reach_the_next(tiny_folder: Path) -> None:
    asked = request(random.Random(4), "r", sampling=SamplingParams(max_tokens=30))
    async with running(tiny_folder, max_running=1) as engine:
        clean = await answer(engine, asked)
        stream = engine.generate(asked)
        for _ in range(5):
            await anext(stream)
        cache = runner_of(engine).cache
        length = clean.usage.prompt_tokens + 5
        for tensor in (*cache.keys, *cache.values):
            tensor[0, :, :length].fill_(math.nan)
        await stream.aclose()
        assert (await answer(engine, asked)).token_ids == clean.token_ids


def test_the_thinking_half_needs_no_torch() -> None:
    code = (
        "import sys, vlserve.engines.native.scheduling.scheduler, vlserve.engines.echo,"
        " vlserve.engines.catalog; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
