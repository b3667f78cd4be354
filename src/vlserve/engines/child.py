"""The process behind the wall, seen from the front: started, written to, read from, ended."""

import asyncio
import logging
import signal
from typing import Final

from vlserve.engines.base import EngineInfo
from vlserve.engines.wire import (
    Channel,
    Failed,
    FromWorker,
    Start,
    Started,
    ToWorker,
    WireError,
)
from vlserve.errors import Code, ServeError
from vlserve.models.errors import ModelError
from vlserve.processes import Process
from vlserve.settings import EngineSettings, ModelSettings

# Weights may come over a slow network, but a child that hangs here must not hang for ever.
_START_S: Final = 600.0
_END_S: Final = 5.0  # for an engine to end its step and close; then it is killed
_REAP_S: Final = 5.0  # a killed process that is still there waits for a device
_MAX_BYTES: Final = 2**24  # of a piece of an answer
_log = logging.getLogger(__name__)


class Lost(Exception):  # noqa: N818  not an error of ours: a process is gone
    """The process is gone or of no use any more; the text says how that was seen."""


class Child:
    """A process that runs `module`, which becomes an engine with `open`.

    It is told the engine's kind at once, and imports what that takes meanwhile.
    """

    def __init__(self, module: str, kind: str) -> None:
        self._process = Process(module, arguments=(kind,))
        self._channel: Channel[FromWorker] = Channel(self._process.socket, FromWorker, _MAX_BYTES)
        self._is_open = False

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    async def open(self, model: ModelSettings, settings: EngineSettings) -> EngineInfo:
        """Facts of the engine, once it has started.

        Raises ModelError or OSError as the engine did, ServeError(UNAVAILABLE) where it failed in
        another way, and Lost where the process died of it.
        """
        await self.send(Start(model.model_dump_json(), settings.model_dump_json()))
        try:
            async with asyncio.timeout(_START_S):
                message = await self.receive()
        except TimeoutError:
            raise Lost(f"not started within {_START_S:.0f} s") from None
        except Lost:
            raise Lost(await self._ended_while_loading()) from None
        match message:
            case Started(info):
                self._is_open = True
                return info
            case Failed("ModelError", text):
                raise ModelError(text)
            case Failed("OSError", text):
                raise OSError(text)
            case Failed(_, text):
                raise ServeError(Code.UNAVAILABLE, text)
        raise Lost("its first word was none")

    async def _ended_while_loading(self) -> str:
        """What became of a process whose socket closed before its engine had started."""
        if await asyncio.to_thread(self._process.reap, _REAP_S) == signal.SIGKILL.name:
            return (
                "it was killed while it loaded the model, which the system does where memory runs "
                "out. Free some, set a smaller engine.cache_mib or engine.dtype to bfloat16, or "
                "take a smaller model: `vlserve models` says which fit here"
            )
        return "it is gone"

    async def send(self, message: ToWorker) -> None:
        """Raises Lost, and WireError for what cannot cross."""
        try:
            await self._channel.send(message)
        except EOFError:
            raise Lost("it is gone") from None

    async def receive(self) -> FromWorker:
        """The next message. Raises Lost, also for what is no message."""
        try:
            return await self._channel.receive()
        except EOFError:
            raise Lost("it is gone") from None
        except WireError as error:
            raise Lost(str(error)) from None

    async def end(self) -> None:
        """Let the engine close, or kill the process where it does not. Nobody may send or
        receive any more."""
        try:
            if self._is_open:
                self._channel.end_sending()
                async with asyncio.timeout(_END_S):
                    await self._channel.drained()
        except TimeoutError:
            _log.warning("the engine's process did not end in %g s: killed", _END_S)
        finally:
            self._process.kill()
        await self.killed()

    async def killed(self) -> str:
        """Kill the process, close its socket, and say what it died of."""
        self._process.kill()
        self._channel.close()
        died_of = await asyncio.to_thread(self._process.reap, _REAP_S)
        return died_of or "killed, and still not gone"
