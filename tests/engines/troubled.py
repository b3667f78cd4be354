"""An engine's process that a test can make die: python -m tests.engines.troubled.

It is echo with steps of 10 ms, and does what the last text of a request says as the request
begins to run: "die", "hang" its loop, "stick" in a step, "babble" what is no message, "end" by
itself, or "break" for this request alone. "perish" dies before it begins, and of being counted.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator

from vlserve.engines import catalog, worker
from vlserve.engines.base import Begun, Load
from vlserve.engines.echo import EchoEngine
from vlserve.models.errors import ModelError
from vlserve.types import Chunk, Request, TokenCount

STEP_S = 0.01
BEGIN_S = 0.05  # so that it is known to have begun before it dies


class TroubledEngine(EchoEngine):
    """See above. A model named "unfit" does not start, "doomed" and "huge" die of it."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._is_stuck = False

    async def start(self) -> None:
        match self._name:
            case "unfit":
                raise ModelError("it is unfit")
            case "breaking":
                raise RuntimeError("secret")
            case "doomed":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "huge":
                os.kill(os.getpid(), signal.SIGKILL)

    def load(self) -> Load:
        now = super().load()
        if self._is_stuck:
            return Load(1, now.num_waiting, now.num_free_slots - 1, num_steps=0)
        return now

    async def generate(self, request: Request) -> AsyncGenerator[Chunk | Begun]:
        command = request.messages[-1].content[-1]
        if command == "perish":
            os.kill(os.getpid(), signal.SIGKILL)
        async for chunk in super().generate(request):
            yield chunk
            if isinstance(chunk, Begun):
                await self._obey(command)

    async def count(self, request: Request) -> TokenCount:
        if request.messages[-1].content[-1] == "perish":
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().count(request)

    async def _obey(self, command: object) -> None:
        match command:
            case "die":
                await asyncio.sleep(BEGIN_S)
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                await asyncio.sleep(BEGIN_S)
                time.sleep(3600)  # noqa: ASYNC251  that is the trouble
            case "stick":
                self._is_stuck = True
                await asyncio.sleep(3600)
            case "babble":
                await asyncio.sleep(BEGIN_S)
                os.write(int(sys.argv[1]), b"\x00\x00\x00\x05hello")
            case "end":
                await asyncio.sleep(BEGIN_S)
                await self.close()
            case "break":
                raise RuntimeError("secret")

    async def _step(self) -> None:
        await asyncio.sleep(STEP_S)
        await super()._step()


if __name__ == "__main__":
    catalog.ENGINES["echo"] = ("tests.engines.troubled", "TroubledEngine")
    worker.main()
