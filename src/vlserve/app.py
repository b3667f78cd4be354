"""Assembly: settings -> a house that serves, opened and closed in a fixed order.

Opening: listen at every door (NOT_SERVING), start the engine, let requests in, answer the bundled
picture through the whole service, SERVING. Closing is the same backwards: NOT_SERVING, refuse new
requests and finish what runs, close the doors, close the engine. In between, health follows the
engine's process: NOT_SERVING when it dies, SERVING when the one after it has answered.
"""

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from vlserve.doors.grpc.server import GrpcDoor
from vlserve.doors.http.application import application
from vlserve.doors.http.health import Readiness
from vlserve.doors.http.server import HttpDoor, Router
from vlserve.doors.kserve import servicer as kserve
from vlserve.doors.openai import routes as openai
from vlserve.doors.playground import routes as playground
from vlserve.doors.rest import routes as rest
from vlserve.engines.base import Engine, EngineInfo
from vlserve.engines.supervisor import Supervisor
from vlserve.errors import Code, ServeError
from vlserve.launch import spawn_engine
from vlserve.readiness import Door, announce, cancel, first_answer, update_health
from vlserve.service.service import Service
from vlserve.settings import Settings

Asgi = Callable[[Any, Any, Any], Awaitable[None]]  # an app as ASGI has it


@dataclass(frozen=True, slots=True)
class App:
    """A house that serves gRPC at `address` and HTTP at `http_address`. `seconds` says what opening
    it took, by stage; `engine_ended` returns when the engine no longer answers."""

    info: EngineInfo
    address: str
    http_address: str
    first_answer: str
    seconds: dict[str, float]
    engine_ended: Callable[[], Awaitable[None]]


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """The engine and the service in front of it, without a door.

    Raises ServeError or whatever the engine raises at its start.
    """
    engine = spawn_engine(settings)
    async with AsyncExitStack() as closing:
        service = _service(engine, settings, closing)
        await engine.start()
        service.open()
        yield service


@asynccontextmanager
async def open_http_app(settings: Settings) -> AsyncIterator[Asgi]:
    """The service behind what the HTTP door serves, for callers in this process: no port is opened.

    Raises as `open_service`.
    """
    async with open_service(settings) as service:
        readiness = Readiness(is_serving=True)
        routers = _routers(service, settings)
        yield application(service, routers, readiness, settings.limits, settings.http)


@asynccontextmanager
async def running(
    settings: Settings, on_stage: Callable[[str], None] = lambda stage: None
) -> AsyncIterator[App]:
    """The whole house, SERVING while the context lasts. `on_stage` is told what it waits for.

    Raises OSError where an address cannot be had, and what `open_service` raises.
    """
    async with _running(settings, spawn_engine(settings), on_stage) as app:
        yield app


@asynccontextmanager
async def _running(
    settings: Settings, engine: Supervisor, on_stage: Callable[[str], None]
) -> AsyncIterator[App]:
    begin_s = time.monotonic()
    async with AsyncExitStack() as closing:
        service = _service(engine, settings, closing)
        grpc = GrpcDoor(service, settings.limits, settings.grpc)
        inference = kserve.InferenceServicer(service, settings.limits, lambda: grpc.is_serving)
        grpc.add(kserve.SERVICE, inference.handlers())
        page = playground.routes(settings.limits, lambda: grpc.address)
        routers = [*_routers(service, settings), page]
        http = HttpDoor(service, routers, settings.limits, settings.http)
        doors: tuple[Door, ...] = (grpc, http)
        for door in doors:
            closing.push_async_callback(door.stop)
            await door.start()
        on_stage("loading the model")
        await engine.start()
        loaded_s = time.monotonic()
        service.open()
        closing.push_async_callback(_drain, service, engine, settings.limits.drain_s)
        on_stage("answering the first picture")
        example_answer = await first_answer(service, settings.limits)
        closing.push_async_callback(announce, doors, is_serving=False)
        await announce(doors, is_serving=True)
        answered_s = time.monotonic()
        telling = asyncio.create_task(update_health(engine, service, doors, settings.limits))
        closing.push_async_callback(cancel, telling)
        # What has been made by now stays: looking through it again and again holds everybody up.
        gc.collect()
        gc.freeze()
        seconds = {"model": loaded_s - begin_s, "first answer": answered_s - loaded_s}
        yield App(engine.info, grpc.address, http.address, example_answer, seconds, engine.ended)


async def serve(
    settings: Settings,
    engine: Supervisor,
    on_stage: Callable[[str], None],
    on_ready: Callable[[App], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the draining at once.

    `engine` is as `spawn_engine` makes it of the settings, and is closed at the end.

    Raises ServeError(UNAVAILABLE) where the engine has died: whoever watches over this process
    starts it anew.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  this is a coroutine
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        async with _running(settings, engine, on_stage) as app:
            on_ready(app)
            await app.engine_ended()
            raise ServeError(Code.UNAVAILABLE, "the engine has died: the log says of what")
    except asyncio.CancelledError:
        return
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _routers(service: Service, settings: Settings) -> list[Router]:
    """The calls that the HTTP door has to offer, each part by its own room."""
    limits = settings.limits
    return [openai.routes(service, limits), rest.routes(service, limits)]


def _service(engine: Engine, settings: Settings, closing: AsyncExitStack) -> Service:
    closing.push_async_callback(engine.close)
    service = Service(engine, settings.limits, settings.media)
    closing.callback(service.close)
    service.warm()  # while the engine loads
    return service


async def _drain(service: Service, engine: Engine, longest_s: float) -> None:
    """Let running requests finish; those that take too long are told so by the engine."""
    try:
        async with asyncio.timeout(longest_s):
            await service.drain()
    except TimeoutError:
        await engine.close()
