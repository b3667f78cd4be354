"""Two hundred callers leave in the middle: their places come back, and nobody else notices."""

import asyncio
import random
import time

import pytest

from tests.doors.grpc.crowd import leave, random_kind
from tests.doors.grpc.live import live, png
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.doors.grpc.pb import vision_pb2 as pb

# One event loop for all: grpc.aio holds on to the first one that it meets.
pytestmark = pytest.mark.asyncio(loop_scope="session")
NUM_LEAVING = 200
NUM_NEIGHBOURS = 4
SEED = 20
HOLD = pb.VisionRequest(image=png(), prompt="hold")
# A sentence of many words, so that a neighbour runs while many others come and go.
LONG = pb.VisionRequest(image=png((1, 2, 3)), prompt=" ".join(f"w{i}" for i in range(100)))


async def test_two_hundred_callers_leave() -> None:
    chance = random.Random(SEED)
    engine = ScriptedEngine(num_slots=16, step_s=0.002)
    async with live(engine, max_waiting=NUM_LEAVING) as house:
        alone = (await house.client.chat(LONG)).text
        answers: list[str] = []
        is_over = asyncio.Event()

        async def neighbour() -> None:
            while not is_over.is_set():
                answers.append((await house.client.chat(LONG)).text)

        neighbours = [asyncio.create_task(neighbour()) for _ in range(NUM_NEIGHBOURS)]
        for _ in range(NUM_LEAVING // 25):
            await asyncio.gather(
                *(
                    leave(house.client, HOLD, chance.uniform(0, 0.08), random_kind(chance))
                    for _ in range(25)
                )
            )
            left_s = time.monotonic()
            await until(lambda: house.service.num_inside <= NUM_NEIGHBOURS)
            await until(lambda: engine.num_running <= NUM_NEIGHBOURS)
            assert time.monotonic() - left_s < 0.25
        is_over.set()
        await asyncio.gather(*neighbours)
        assert set(answers) == {alone}
        assert house.service.num_inside == 0
        assert engine.load().num_free_slots == engine.num_slots
    print(f"tried {NUM_LEAVING}, held {NUM_LEAVING}, seed {SEED}, neighbours {len(answers)}")


@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("is_deadline", [False, True], ids=["cancel", "deadline"])
async def test_the_engine_takes_no_step_for_who_has_left(
    is_stream: bool, is_deadline: bool
) -> None:
    engine = ScriptedEngine(num_slots=1, step_s=0.002)
    async with live(engine) as house:
        # The first picture waits until a process that decodes is there, longer than the deadline.
        await house.client.chat(pb.VisionRequest(image=png(), prompt="a picture"))
        before = engine.num_steps
        start = house.client.chat_stream if is_stream else house.client.chat
        call = start(HOLD, timeout=0.3 if is_deadline else None)
        await until(lambda: engine.num_steps > before + 3)
        if not is_deadline:
            call.cancel()
        await until(lambda: house.service.num_inside == 0)
        num_steps = engine.num_steps
        await asyncio.sleep(0.05)
        assert engine.num_steps == num_steps
        assert engine.load().num_free_slots == 1


async def test_a_picture_that_nobody_waits_for_gives_its_place_back() -> None:
    """Leaving while the picture is decoded: the permit is back, the engine never hears of it."""
    large = png(size=(6000, 6000))
    async with live(max_image_pixels=50_000_000) as house:
        call = house.client.chat(pb.VisionRequest(image=large, prompt="p"))
        await until(lambda: house.service.num_inside == 1)
        call.cancel()
        await until(lambda: house.service.num_inside == 0)
        assert not house.engine.seen


async def test_a_reader_that_does_not_read_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlserve.doors.grpc.calls.READ_GRACE_S", 0.1)
    async with live(timeout_s=1.0) as house:
        call = house.client.chat_stream(pb.VisionRequest(prompt="flood"))
        await until(lambda: house.engine.num_steps > 3)
        await asyncio.sleep(0.5)
        num_steps = house.engine.num_steps
        await asyncio.sleep(0.2)
        assert house.engine.num_steps == num_steps  # nothing is made that nobody takes
        assert house.service.num_inside == 1
        await until(lambda: house.service.num_inside == 0)
        call.cancel()
