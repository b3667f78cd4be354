"""Who answers: a running server, or the model loaded here."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from vlserve.describe.address import grpc_address
from vlserve.doors.grpc.client import GrpcClient
from vlserve.settings import Settings
from vlserve.types import ChatRequest, Chunk


@dataclass(frozen=True, slots=True)
class Connection:
    """Answers requests while its context lasts. `model` is the name of who answers.

    `chat` raises ServeError as the service does.
    """

    model: str
    chat: Callable[[ChatRequest], AsyncGenerator[Chunk]]


@asynccontextmanager
async def connected(
    settings: Settings, server: str | None, on_stage: Callable[[str], None]
) -> AsyncIterator[Connection]:
    """The server at `server`, `host:port` or `grpc://host:port`. Where that is None the one at
    grpc.host and grpc.port if it serves, else the model of the settings, loaded here, of which
    `on_stage` is told.

    Raises OSError where `server` does not serve, DescribeError where it is another kind of address,
    and what loading a model raises.
    """
    address = grpc_address(server or settings.grpc.address(settings.grpc.port))
    async with AsyncExitStack() as opened:
        client = await opened.enter_async_context(
            GrpcClient(address, settings.limits.max_message_mib)
        )
        if await client.is_serving():
            (model, *_) = await client.models()
            yield Connection(model, client.ask)
            return
        if server is not None:
            raise OSError(f"no server that serves answers at {server}")
        on_stage(f"nothing serves at {address}: loading the model here")
        from vlserve import app  # noqa: PLC0415 - takes its time, and a server needs none of it

        service = await opened.enter_async_context(app.open_service(settings))
        yield Connection(service.info.model, service.chat)
