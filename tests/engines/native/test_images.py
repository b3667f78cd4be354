"""A picture is seen once for all who ask about it, and never by one tenant for another."""

import asyncio
import random
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from tests.asked import picture
from tests.engines.collect import Answer, answer, running
from tests.waiting import AT_MOST_S, until
from vlserve.engines.native.engine import NativeEngine
from vlserve.engines.native.vision.image_cache import ImageCache
from vlserve.models.features import ImageFeatures
from vlserve.models.prompt import Arrays, PromptImage
from vlserve.types import Image, Message, Request, Role, SamplingParams


def asked(name: str, image: Image, question: str, tenant: str = "") -> Request:
    turn = Message(Role.USER, (image, question))
    return Request(name, (turn,), SamplingParams(max_tokens=8), tenant)


def counted(engine: NativeEngine) -> list[int]:
    """Grows by one for each picture that the tower sees."""
    seen: list[int] = []
    encode = engine.intake.adapter.encode

    def count(inputs: Arrays) -> ImageFeatures:
        seen.append(1)
        return encode(inputs)

    engine.intake.adapter.encode = count  # type: ignore[method-assign]
    return seen


async def test_a_second_question_sees_no_picture_and_computes_no_beginning(
    tiny_folder: Path,
) -> None:
    image = picture(random.Random(0))
    question = "describe the scene, please " * 4
    async with running(tiny_folder) as engine:
        seen = counted(engine)
        first = await answer(engine, asked("1", image, question + "what is there?"))
        again = await answer(engine, asked("2", image, question + "how many are there?"))
        other = await answer(engine, asked("3", image, question + "what is there?", "other"))
    assert len(seen) == 2
    assert first.usage.cached_tokens == other.usage.cached_tokens == 0
    assert again.usage.cached_tokens >= 32
    assert first.token_ids == other.token_ids


async def test_a_picture_that_many_ask_about_at_once_is_seen_once(tiny_folder: Path) -> None:
    image = picture(random.Random(0))
    async with running(tiny_folder) as engine:
        seen = counted(engine)
        await asyncio.gather(*(answer(engine, asked(str(i), image, "a")) for i in range(8)))
    assert len(seen) == 1


async def test_nothing_is_kept_of_a_picture_whose_asker_left_before_its_turn(
    tiny_folder: Path,
) -> None:
    rng = random.Random(0)
    async with running(tiny_folder) as engine:
        encoder = engine.intake.encoder
        is_let, see, submit = threading.Event(), encoder._see, encoder.submit
        pixels: list[weakref.ref[np.ndarray]] = []

        def held(tenant: str, image: PromptImage) -> None:
            is_let.wait(AT_MOST_S)
            see(tenant, image)

        def noted(tenant: str, image: PromptImage) -> "Future[None]":
            pixels.append(weakref.ref(max(image.inputs.values(), key=lambda each: each.nbytes)))
            return submit(tenant, image)

        encoder._see = held  # type: ignore[method-assign]
        encoder.submit = noted  # type: ignore[method-assign]
        seen = counted(engine)
        asking: list[asyncio.Task[Answer]] = []
        for i in range(2):
            asking.append(asyncio.create_task(answer(engine, asked(str(i), picture(rng), "a"))))
            await until(lambda: len(pixels) == len(asking))
        second, first = asking.pop(), asking.pop()
        second.cancel()
        await asyncio.wait([second])
        del second  # which holds what its frames held
        is_let.set()
        await first
        await until(lambda: not encoder._queue)
        await until(lambda: all(each() is None for each in pixels))
        assert len(seen) == 1


@pytest.mark.parametrize("mib", [0, 1])
async def test_without_room_each_is_seen_anew(tiny_folder: Path, mib: int) -> None:
    image = picture(random.Random(0))
    async with running(tiny_folder) as engine:
        engine.intake.images._num_left = mib * 1024 * 1024
        seen = counted(engine)
        answers = [await answer(engine, asked(str(i), image, "a")) for i in range(3)]
    assert len(seen) == (1 if mib else 3)
    assert answers[0].token_ids == answers[1].token_ids == answers[2].token_ids


def test_the_cache_keeps_to_its_bound() -> None:
    cache = ImageCache(1000)
    for index in range(10):
        cache.put("", PromptImage(str(index), "", {"grid": np.zeros(32, np.int64)}))
        assert cache._num_left >= 0
    assert cache.get("", "9") is not None
    assert cache.get("", "0") is None
    assert cache.get("other", "9") is None
    cache.put("", PromptImage("9", "", {"grid": np.zeros(200, np.int64)}))
    assert cache.get("", "9") is None
    assert (cache.num_hits, cache.num_misses) == (1, 3)
    assert cache._num_left == 1000
