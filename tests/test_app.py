"""The house opens and closes in a fixed order."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.doors.http.live import read_answer, request_head
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve import app, launch
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.grpc.server import GrpcDoor
from vlserve.errors import ServeError
from vlserve.settings import (
    EngineSettings,
    GrpcSettings,
    HttpSettings,
    LimitSettings,
    ModelSettings,
    Settings,
)
from vlserve.types import Chunk, Request

pytestmark = pytest.mark.asyncio(loop_scope="session")
SLOW = pb.VisionRequest(prompt=" ".join(["word"] * 20))
HOLD = pb.VisionRequest(prompt="hold")


class WatchedEngine(ScriptedEngine):
    """Notes what happens to it, and starts when it is told to."""

    def __init__(self) -> None:
        super().__init__(num_slots=2, step_s=0.01)
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.fails: Exception | None = None
        self.history: list[str] = []
        self.is_interrupted = asyncio.Event()
        self.is_answering = asyncio.Event()

    async def start(self) -> None:
        await self.may_start.wait()
        if self.fails is not None:
            raise self.fails
        self.history.append("started")

    async def generate(self, request: Request) -> AsyncGenerator[Chunk]:
        async for chunk in super().generate(request):
            yield chunk
        self.history.append("answered")

    async def interrupted(self) -> None:
        await self.is_interrupted.wait()

    async def answering(self) -> None:
        await self.is_answering.wait()

    def spawn(self) -> None:
        """It has no process."""

    async def close(self) -> None:
        await super().close()
        self.history.append("closed")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> WatchedEngine:
    engine = WatchedEngine()

    def make(
        model: ModelSettings, settings: EngineSettings, *, longest_step_s: float
    ) -> WatchedEngine:
        return engine

    monkeypatch.setattr(launch, "Supervisor", make)
    return engine


def settings(**limits: Any) -> Settings:
    return Settings(
        grpc=GrpcSettings(port=0), http=HttpSettings(port=0), limits=LimitSettings(**limits)
    )


def client(house: app.App) -> GrpcClient:
    return GrpcClient(house.address, 64)


async def test_a_picture_is_answered_before_anybody_is_told_to_come(engine: WatchedEngine) -> None:
    stages: list[str] = []
    async with app.running(settings(), stages.append) as house, client(house) as caller:
        assert engine.history == ["started", "answered"]
        assert await caller.is_serving()
        assert await caller.is_serving("")
        assert await is_ready(house)
        assert house.first_answer.endswith("Describe the image")
    assert stages == ["loading the model", "answering the first picture"]
    assert list(house.seconds) == ["model", "first answer"]
    assert engine.history[-1] == "closed"


async def is_ready(house: app.App) -> bool:
    """What health says over HTTP."""
    reader, writer = await asyncio.open_connection(*house.http_address.rsplit(":", 1))
    writer.write(b"GET /health/ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return b" 200 " in answer.splitlines()[0]


async def test_while_the_engine_starts_it_listens_and_says_not_serving(
    engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors: list[Any] = []

    def made(*arguments: Any) -> Any:
        doors.append(GrpcDoor(*arguments))
        return doors[-1]

    monkeypatch.setattr(app, "GrpcDoor", made)
    engine.may_start.clear()

    async def run() -> None:
        async with app.running(settings()):
            pass

    opening = asyncio.create_task(run())
    await until(lambda: bool(doors) and not doors[0].address.endswith(":0"))
    async with GrpcClient(doors[0].address, 64) as caller:
        assert not await caller.is_serving()
        refused = caller.chat(SLOW)
        assert await refused.code() is grpc.StatusCode.UNAVAILABLE
        assert await refused.details() == "the server is starting: ask again when it is ready"
        engine.may_start.set()
        await opening


async def test_closing_finishes_what_runs_and_refuses_the_rest(engine: WatchedEngine) -> None:
    late: list[grpc.StatusCode] = []
    is_serving: list[bool] = []
    async with app.running(settings()) as house:
        caller = client(house)
        running = caller.chat(SLOW)
        await until(lambda: engine.num_running == 1)

        async def come_late() -> None:
            await asyncio.sleep(0.05)  # by then the house closes
            is_serving.append(await caller.is_serving() or await is_ready(house))
            late.append(await caller.chat(SLOW).code())

        coming = asyncio.create_task(come_late())
    answer = await running
    await coming
    assert answer.text == "word " * 20
    assert (is_serving, late) == ([False], [grpc.StatusCode.UNAVAILABLE])
    assert engine.history == ["started", "answered", "answered", "closed"]
    assert await caller.chat(SLOW).code() is grpc.StatusCode.UNAVAILABLE
    async with caller:
        pass


async def test_closing_finishes_answers_over_http_too(engine: WatchedEngine) -> None:
    asked = json.dumps({"messages": [{"role": "user", "content": SLOW.prompt}]}).encode()
    call = request_head("/v1/chat/completions", len(asked)) + asked
    async with app.running(settings()) as house:
        address = house.http_address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(*address)
        late_reader, late_writer = await asyncio.open_connection(*address)
        writer.write(call)
        await until(lambda: engine.num_running == 1)

        async def come_late() -> int:
            await asyncio.sleep(0.05)  # by then the house closes
            late_writer.write(call)
            return (await read_answer(late_reader)).status

        coming = asyncio.create_task(come_late())
    answer = await read_answer(reader)
    assert (answer.status, await coming) == (200, 503)
    assert answer.json["choices"][0]["message"]["content"] == "word " * 20
    for each in (writer, late_writer):
        each.close()


async def test_what_runs_for_too_long_is_told_so(engine: WatchedEngine) -> None:
    async with app.running(settings(drain_s=0.1)) as house:
        caller = client(house)
        holding = caller.chat(HOLD)
        await until(lambda: engine.num_running == 1)
    assert await holding.code() is grpc.StatusCode.UNAVAILABLE
    async with caller:
        pass


async def test_an_engine_that_does_not_start_leaves_nothing_behind(engine: WatchedEngine) -> None:
    engine.fails = OSError("no")
    with pytest.raises(OSError, match="no"):
        async with app.running(settings()):
            pass
    assert engine.history == ["closed"]


async def test_a_signal_while_the_engine_starts_ends_it(engine: WatchedEngine) -> None:
    engine.may_start.clear()
    stages: list[str] = []
    serving = asyncio.create_task(
        app.serve(settings(), launch.spawn_engine(settings()), stages.append, never_ready)
    )
    await until(lambda: "loading the model" in stages)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(serving, 1)
    assert engine.history == ["closed"]


def never_ready(house: app.App) -> None:
    raise AssertionError("it must not be ready")


async def test_a_first_signal_drains_and_a_second_ends_it(engine: WatchedEngine) -> None:
    stages: list[str] = []
    houses: list[app.App] = []
    serving = asyncio.create_task(
        app.serve(settings(), launch.spawn_engine(settings()), stages.append, houses.append)
    )
    await until(lambda: bool(houses))
    async with client(houses[0]) as caller:
        holding = caller.chat(HOLD)
        await until(lambda: engine.num_running == 1)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        assert not await caller.is_serving()
        assert not serving.done()
        assert not holding.done()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(serving, 3)
        assert await holding.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert engine.history[-1] == "closed"


async def test_a_taken_http_port_closes_what_was_open(engine: WatchedEngine) -> None:
    async with app.running(settings()) as house:
        port = int(house.http_address.rsplit(":", 1)[1])
        second = settings().model_copy(update={"http": HttpSettings(port=port)})
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with app.running(second):
                pass


async def test_the_hall_alone_answers(engine: WatchedEngine) -> None:
    async with app.open_service(settings()) as service:
        assert service.info.engine == "scripted"
    assert engine.history == ["started", "closed"]


@pytest.mark.parametrize("limits", [{"max_new_tokens": 7}, {"max_images": 0}])
async def test_it_opens_with_narrow_limits(engine: WatchedEngine, limits: dict[str, int]) -> None:
    async with app.running(settings(**limits)) as house:
        assert house.first_answer.endswith("Describe the image")
        assert engine.seen[0].sampling.max_tokens == limits.get("max_new_tokens", 200)


async def test_a_dead_engine_ends_the_server(
    engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = asyncio.Event()
    monkeypatch.setattr(engine, "ended", dead.wait)
    ready: list[app.App] = []
    serving = asyncio.create_task(
        app.serve(settings(), launch.spawn_engine(settings()), lambda stage: None, ready.append)
    )
    await until(lambda: bool(ready))
    dead.set()
    with pytest.raises(ServeError, match="the engine has died"):
        await serving
    assert engine.history[-1] == "closed"


async def test_health_follows_the_engine(engine: WatchedEngine) -> None:
    async with app.running(settings()) as house, client(house) as caller:
        assert await caller.is_serving()
        num_asked = len(engine.seen)
        engine.is_interrupted.set()
        await asyncio.sleep(0.1)
        assert not await caller.is_serving()
        assert not await is_ready(house)
        assert len(engine.seen) == num_asked + 1  # the picture, once more
        assert not await caller.is_serving()  # until an answer to it came through the wall
        engine.is_interrupted.clear()
        engine.is_answering.set()
        await asyncio.sleep(0.1)
        assert await caller.is_serving()
        assert await is_ready(house)
        engine.is_answering.clear()
        engine.is_interrupted.set()
        await asyncio.sleep(0.1)
        assert not await caller.is_serving()
