"""A whole house with gates in it, whose rooms a test can look into.

It is opened as `vlserve serve` opens it: the doors and the hall here, the engine and what decodes
in processes of their own, and beside it a web server for pictures by URL.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import (
    AsyncExitStack,
    ExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Any
from unittest import mock

from starlette.types import Message, Receive, Scope

from tests.faults.held import VARIABLE, Hold, Notes, Phase, held, note
from tests.waiting import until
from vlserve import app, launch
from vlserve.budget import Claim
from vlserve.doors.http import streaming as answers
from vlserve.doors.http.bodies import BoundedBodies
from vlserve.doors.http.server import HttpDoor
from vlserve.engines.child import Child
from vlserve.engines.supervisor import Supervisor
from vlserve.engines.wire import Cancel, ToWorker
from vlserve.errors import ServeError
from vlserve.media import decoders, fetch
from vlserve.media.allowance import Allowance
from vlserve.media.decoders import Decoders, Encoded, Pixels
from vlserve.media.fetch import Fetcher
from vlserve.service.service import Service
from vlserve.settings import (
    EngineSettings,
    GrpcSettings,
    HttpSettings,
    LimitSettings,
    MediaSettings,
    ModelSettings,
    Settings,
)
from vlserve.types import ChatRequest, Chunk

ROOT = Path(__file__).parents[2]
NUM_SLOTS = 4
MAX_TOKENS = 48
LIMITS = LimitSettings(max_new_tokens=MAX_TOKENS, timeout_s=30.0)
_CLOSE_WAIT, _ESTABLISHED = "08", "01"


class HeldService(Service):
    """Notes who comes in, whose leaving is heard of, and when all that they held is back."""

    is_deaf = False  # the control: nobody who leaves is let out

    async def chat(
        self, request: ChatRequest, timeout_s: float | None = None
    ) -> AsyncGenerator[Chunk]:
        texts = (part for m in request.messages for part in m.content if isinstance(part, str))
        hold = held(*texts)
        chunks = super().chat(request, timeout_s)
        if hold is None:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
            return
        note("enters", hold.number)
        held_chunks = self._held(hold, chunks)
        answer = _detached(held_chunks) if self.is_deaf else held_chunks
        try:
            async with aclosing(answer):
                async for chunk in answer:
                    yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            note("left", hold.number)
            raise

    async def _held(self, hold: Hold, chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if chunk.finish_reason is not None and hold.phase is Phase.FLUSH:
                        hold.reach()
                        with _noted_abort(hold):
                            while not hold.is_open:
                                await asyncio.sleep(0.001)
                    yield chunk
        finally:
            pixels = self._limits.max_decoded_pixels - self._media.budget.num_left
            note("back", hold.number, inside=self.num_inside, pixels=pixels)

    def held_now(self) -> dict[str, int]:
        """What of the hall and of the media room is taken. All of it is 0 in an idle house."""
        room = self._media
        fetcher = room._sources._fetcher
        assert fetcher is not None
        return {
            "permits": self.num_inside,
            "pixels": self._limits.max_decoded_pixels - self._media.budget.num_left,
            "decoding": room._decoders._num - room._decoders._places._value,
            "fetching": fetch._MAX_AT_ONCE - fetcher._turns._value,
        }


async def _detached(chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
    """The control: the answer is made to its end, whoever still reads it."""
    made: asyncio.Queue[Chunk | None] = asyncio.Queue()

    async def make() -> None:
        with suppress(ServeError):
            async for chunk in chunks:
                made.put_nowait(chunk)
        made.put_nowait(None)

    making = asyncio.create_task(make())
    while (chunk := await made.get()) is not None:
        yield chunk
    await making


@contextmanager
def _noted_abort(hold: Hold | None) -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        if hold is not None:
            note("abort", hold.number)
        raise


class HeldDecoders(Decoders):
    """Notes in which moment it hears that nobody waits for a picture."""

    async def frames(self, what: Encoded) -> list[Pixels]:
        with _noted_abort(held(what.data)):
            return await super().frames(what)


class HeldFetcher(Fetcher):
    """Notes in which moment it hears that nobody waits for a picture."""

    async def fetch(self, url: str, allowance: Allowance, max_bytes: int) -> bytes:
        with _noted_abort(held(url)):
            return await super().fetch(url, allowance, max_bytes)


class House:
    """What a test needs of it."""

    def __init__(self, running: app.App, made: list[Any], web: str) -> None:
        (self.supervisor,) = (each for each in made if isinstance(each, Supervisor))
        (self.service,) = (each for each in made if isinstance(each, HeldService))
        (self.http_door,) = (each for each in made if isinstance(each, HttpDoor))
        self.grpc = running.address
        self.http = running.http_address
        self.notes = Notes()
        self._web = web

    def url(self, hold: Hold) -> str:
        """A picture on the web that comes to its half, and then no further."""
        return f"{self._web}/{hold.mark}"

    def is_connected(self, port: int) -> bool:
        """Whether a door still has its end of a connection from that port."""
        doors = {int(each.rsplit(":", 1)[1]) for each in (self.grpc, self.http)}
        tables = (Path(f"/proc/self/net/{name}").read_text() for name in ("tcp", "tcp6"))
        for line in (line for each in tables for line in each.splitlines()[1:]):
            _, here, there, state, *_ = line.split()
            is_ours = int(here.split(":")[1], 16) in doors and int(there.split(":")[1], 16) == port
            if is_ours and state in {_ESTABLISHED, _CLOSE_WAIT}:
                return True
        return False

    async def idle(self) -> dict[str, int]:
        """What is still taken, in a house in which nobody should be: nothing, if all is well."""
        taken: dict[str, int] = {}
        with suppress(TimeoutError):
            await until(lambda: not self._taken_here(), 5.0)
        taken |= self._taken_here()
        for _ in range(100):
            num = len(self.notes.of("holds"))
            os.kill(self.supervisor.pid, signal.SIGUSR1)
            await until(lambda num=num: len(self.notes.of("holds")) > num, 5.0)  # type: ignore[misc]
            facts = self.notes.of("holds")[-1].facts
            if not any(facts.values()):
                return taken
            await asyncio.sleep(0.02)
        return taken | {f"engine's {name}": num for name, num in facts.items() if num}

    def _taken_here(self) -> dict[str, int]:
        now = self.service.held_now() | {"HTTP requests": len(self.http_door._running)}
        return {name: num for name, num in now.items() if num}

    @contextmanager
    def without_doors(self, *, is_grpc: bool) -> Iterator[None]:
        """The control: no door hears of a caller who leaves."""
        with ExitStack() as patches:
            if is_grpc:
                patches.enter_context(mock.patch.object(HeldService, "is_deaf", new=True))
            patches.enter_context(mock.patch.object(answers, "_gone", _never))
            patches.enter_context(mock.patch.object(BoundedBodies, "_whole", _deaf_whole))
            yield
        for task in self.http_door._running:
            task.cancel()

    @contextmanager
    def without_wall(self) -> Iterator[None]:
        """The control: what is cancelled in front of the wall is not told to the engine."""
        send = Child.send

        async def deaf(child: Child, message: ToWorker) -> None:
            if not isinstance(message, Cancel):
                await send(child, message)

        with mock.patch.object(Child, "send", deaf):
            yield


async def _never(receive: Receive) -> None:
    del receive
    await asyncio.Event().wait()


_whole = BoundedBodies._whole


async def _deaf_whole(
    bounded: BoundedBodies, scope: Scope, receive: Receive, claim: Claim
) -> list[Message]:
    async def heard() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            await asyncio.Event().wait()
        return message

    return await _whole(bounded, scope, heard, claim)


@asynccontextmanager
async def held_house(model: Path, folder: Path) -> AsyncIterator[House]:
    """The house, on a model folder; `folder` is for gates and notes."""
    made: list[Any] = []

    def kept(kind: Any, **options: Any) -> Any:
        def make(*arguments: Any, **more: Any) -> Any:
            made.append(kind(*arguments, **options, **more))
            return made[-1]

        return make

    settings = Settings(
        model=ModelSettings(path=str(model)),
        engine=EngineSettings(device="cpu", dtype="float32", max_running=NUM_SLOTS, cache_mib=16),
        limits=LIMITS,
        media=MediaSettings(fetch_urls=True, fetch_s=30.0, decode_s=30.0, workers=2),
        grpc=GrpcSettings(port=0),
        http=HttpSettings(port=0),
    )
    python_path = os.pathsep.join(map(str, (ROOT / "src", ROOT)))
    async with AsyncExitStack() as stack:
        for patch in (
            mock.patch.dict(os.environ, {VARIABLE: str(folder), "PYTHONPATH": python_path}),
            mock.patch.object(launch, "Supervisor", kept(Supervisor, module=_ENGINE)),
            mock.patch.object(app, "Service", kept(HeldService)),
            mock.patch.object(app, "HttpDoor", kept(HttpDoor)),
            mock.patch.object(decoders, "WORKER", _DECODER),
            mock.patch.object(fetch, "Fetcher", HeldFetcher),
            mock.patch("vlserve.media.room.Decoders", HeldDecoders),
            # Whether an address may be asked is tried in tests/media.
            mock.patch.object(fetch, "is_public", bool),
        ):
            stack.enter_context(patch)
        web = await asyncio.start_server(_half_a_picture, "127.0.0.1", 0)
        stack.push_async_callback(_closed, web)
        running = await stack.enter_async_context(app.running(settings))
        port = web.sockets[0].getsockname()[1]
        yield House(running, made, f"http://127.0.0.1:{port}")


_ENGINE = "tests.faults.held_engine"
_DECODER = "tests.faults.held_decoder"


async def _closed(web: asyncio.Server) -> None:
    web.close()
    await web.wait_closed()


async def _half_a_picture(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        hold = held(head)
        assert hold is not None
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(500))
        await writer.drain()
        hold.reach()
        hanging_up = asyncio.create_task(reader.read())
        while not (hanging_up.done() or hold.is_open):
            await asyncio.sleep(0.001)
        if hanging_up.done():
            note("hung up", hold.number)
        hanging_up.cancel()
    writer.close()
