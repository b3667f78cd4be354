"""What health says, and why: a real picture has been answered."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from vlserve import example
from vlserve.doors.grpc.server import GrpcDoor
from vlserve.doors.http.server import HttpDoor
from vlserve.engines.supervisor import Supervisor
from vlserve.errors import ServeError
from vlserve.service.service import Service
from vlserve.settings import LimitSettings
from vlserve.types import ChatRequest, ImageRef, Message, Role, SamplingParams

_ASK_AGAIN_S: Final = 1.0


Door = GrpcDoor | HttpDoor


async def update_health(
    engine: Supervisor, service: Service, doors: Sequence[Door], limits: LimitSettings
) -> None:
    """Keep the doors' health in step with the engine's process, until cancelled."""
    while True:
        await engine.interrupted()
        await announce(doors, is_serving=False)
        # Whoever waited is the proof as well, where no place is left for the picture.
        asking = asyncio.create_task(_ask_until_answered(service, limits))
        try:
            await engine.answering()
        finally:
            await cancel(asking)
        await announce(doors, is_serving=True)


async def announce(doors: Sequence[Door], *, is_serving: bool) -> None:
    """Set the health of every door."""
    for door in doors:
        await door.announce(is_serving=is_serving)


async def _ask_until_answered(service: Service, limits: LimitSettings) -> None:
    while True:
        with suppress(ServeError):
            await first_answer(service, limits)
            return
        await asyncio.sleep(_ASK_AGAIN_S)


async def cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def first_answer(service: Service, limits: LimitSettings) -> str:
    """The answer to the bundled picture, through the whole service. Raises ServeError."""
    picture = (
        (ImageRef(example.picture().read_bytes(), "example.png"),) if limits.max_images else ()
    )
    content: tuple[str | ImageRef, ...] = (*picture, example.QUESTION)
    sampling = SamplingParams(max_tokens=limits.default_max_tokens)
    request = ChatRequest((Message(Role.USER, content),), sampling)
    return "".join([chunk.text async for chunk in service.chat(request)]).strip()
