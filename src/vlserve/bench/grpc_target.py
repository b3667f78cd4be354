"""vlserve's own gRPC door as a target."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from vlserve.bench.targets import AskFailed
from vlserve.doors.grpc.client import GrpcClient
from vlserve.errors import ServeError
from vlserve.settings import LimitSettings
from vlserve.types import ChatRequest, Chunk


class GrpcTarget:
    """A Target over an open connection. A failure's kind is the ServeError's code."""

    def __init__(self, client: GrpcClient) -> None:
        self._client = client

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """The answer as the server streams it."""
        try:
            async with aclosing(self._client.ask(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ServeError as error:
            raise AskFailed(error.code.value, str(error)) from None


@asynccontextmanager
async def grpc_target(address: str) -> AsyncIterator[GrpcTarget]:
    """`host:port`, connected. Raises OSError where nothing there serves."""
    async with GrpcClient(address, LimitSettings().max_message_mib) as client:
        if not await client.is_serving():
            raise OSError(f"no server that serves answers at grpc://{address}")
        yield GrpcTarget(client)
