"""Crowds and leavers in front of the model that is inside."""

import asyncio
import random
from collections.abc import AsyncIterator
from importlib import resources

import pytest
import pytest_asyncio
from PIL import Image, ImageDraw, ImageFont

from tests import pictures
from tests.doors.grpc.crowd import leave, persistent, random_kind
from tests.doors.grpc.live import served, until
from vlserve.app import example_picture
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.engines.base import Engine
from vlserve.engines.catalog import make_engine
from vlserve.settings import EngineSettings, ModelSettings

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(
        not (resources.files("vlserve.models") / "embedded" / "config.json").is_file(),
        reason="the package holds no model yet",
    ),
]
NUM_CLIENTS = 200
NUM_LEAVING = 200
NUM_NEIGHBOURS = 4
SEED = 22
# Hot and without an end in sight, so that it runs until its caller leaves.
RAMBLE = pb.VisionRequest(
    prompt="Describe the image",
    image=example_picture(),
    sampling=pb.Sampling(temperature=2, seed=1, max_tokens=1000),
)
DESCRIBE = pb.VisionRequest(prompt="Describe the image", image=example_picture())


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine() -> AsyncIterator[Engine]:
    engine = make_engine(ModelSettings(), EngineSettings())
    await engine.start()
    yield engine
    await engine.close()


def number_picture(number: int) -> bytes:
    """A number in print, dark on light."""
    picture = Image.new("RGB", (240, 160), "white")
    font = ImageFont.load_default(72)
    ImageDraw.Draw(picture).text((120, 80), str(number), "black", font, anchor="mm")
    return pictures.encoded(picture, "PNG")


def ask_number(number: int) -> pb.VisionRequest:
    return pb.VisionRequest(image=number_picture(number), prompt="What number is this?")


async def read_alone(client: GrpcClient, count: int) -> tuple[list[int], int]:
    """Numbers that the model reads when nobody else asks, and how many it was shown for that.

    Reading is the model's task and measured elsewhere; answering each caller for its own picture
    is the server's, and can only be judged by numbers that the model does read.
    """
    candidates = random.Random(SEED).sample(range(100, 1000), 900)
    read: list[int] = []
    for num_shown, number in enumerate(candidates, 1):
        if (await client.chat(ask_number(number))).text.strip() == str(number):
            read.append(number)
        if len(read) == count:
            return read, num_shown
    pytest.fail(f"of {len(candidates)} numbers the model reads only {len(read)}")


async def test_two_hundred_clients_each_get_the_number_of_their_own_picture(
    engine: Engine,
) -> None:
    async with served(engine) as house:
        numbers, num_shown = await read_alone(house.client, NUM_CLIENTS)
        outcomes = await asyncio.gather(
            *(persistent(house.door.address, ask_number(number)) for number in numbers)
        )
        assert house.service.num_inside == 0
    num_refused = sum(bool(outcome.told_s) for outcome in outcomes)
    num_right = sum(
        outcome.text.strip() == str(number)
        for number, outcome in zip(numbers, outcomes, strict=True)
    )
    print(
        f"tried {NUM_CLIENTS}, held {num_right}, seed {SEED}; refused at first {num_refused}; "
        f"numbers read alone {NUM_CLIENTS} of {num_shown}"
    )
    assert num_right == NUM_CLIENTS
    assert num_refused > 0


async def test_two_hundred_callers_leave(engine: Engine) -> None:
    chance = random.Random(SEED)
    async with served(engine, max_waiting=NUM_LEAVING) as house:
        alone = (await house.client.chat(DESCRIBE)).text
        answers: list[str] = []
        is_over = asyncio.Event()

        async def neighbour() -> None:
            while not is_over.is_set():
                answers.append((await house.client.chat(DESCRIBE)).text)

        neighbours = [asyncio.create_task(neighbour()) for _ in range(NUM_NEIGHBOURS)]
        for _ in range(NUM_LEAVING // 20):
            await asyncio.gather(
                *(
                    leave(house.client, RAMBLE, chance.uniform(0, 0.3), random_kind(chance))
                    for _ in range(20)
                )
            )
            await until(lambda: house.service.num_inside <= NUM_NEIGHBOURS)
            num_steps = engine.load().num_steps
            await until(lambda: engine.load().num_running <= NUM_NEIGHBOURS)
            assert engine.load().num_steps - num_steps <= 1
        is_over.set()
        await asyncio.gather(*neighbours)
        assert set(answers) == {alone}
        await until(lambda: engine.load().num_running == 0)
        assert house.service.num_inside == 0
        assert engine.load().num_free_slots == engine.info.max_running
    print(f"tried {NUM_LEAVING}, held {NUM_LEAVING}, seed {SEED}, neighbours {len(answers)}")


async def test_a_second_question_says_how_much_was_known(engine: Engine) -> None:
    picture = number_picture(1234)  # no test asks about it before
    async with served(engine) as house:
        first = await house.client.chat(ask_number(1234))
        second = await house.client.chat(
            pb.VisionRequest(image=picture, prompt="Describe the image")
        )
    assert first.usage.cached_tokens == 0
    assert 32 <= second.usage.cached_tokens < second.usage.prompt_tokens
