"""The other side of the door: asks a running server."""

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Final, Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vlserve.doors.grpc import convert
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.grpc.status import raised
from vlserve.doors.grpc.vision import SERVICE
from vlserve.settings import MIB
from vlserve.types import ChatRequest, Chunk

_CONNECT_S: Final = 1.0
CHANNEL: Final = (
    ("grpc.max_reconnect_backoff_ms", 5_000),  # a server that was restarted is found soon
    ("grpc.keepalive_time_ms", 30_000),  # one that is gone without a word is found as well
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),  # for as long as a call takes, not twice
    ("grpc.enable_http_proxy", 0),  # the environment's would be asked for this machine as well
)


class GrpcClient:
    """A connection to `host:port`, open while its context lasts."""

    def __init__(self, address: str, max_message_mib: int) -> None:
        bound = max_message_mib * MIB
        self._channel = grpc.aio.insecure_channel(
            address,
            options=(
                ("grpc.max_send_message_length", bound),
                ("grpc.max_receive_message_length", bound),
                *CHANNEL,
            ),
        )
        send, receive = pb.VisionRequest.SerializeToString, pb.VisionResponse.FromString
        self.chat: grpc.aio.UnaryUnaryMultiCallable[pb.VisionRequest, pb.VisionResponse]
        self.chat = self._channel.unary_unary(f"/{SERVICE}/Chat", send, receive)
        self.chat_stream: grpc.aio.UnaryStreamMultiCallable[pb.VisionRequest, pb.VisionResponse]
        self.chat_stream = self._channel.unary_stream(f"/{SERVICE}/ChatStream", send, receive)
        self.count_tokens: grpc.aio.UnaryUnaryMultiCallable[pb.VisionRequest, pb.TokenCount]
        self.count_tokens = self._channel.unary_unary(
            f"/{SERVICE}/CountTokens", send, pb.TokenCount.FromString
        )
        self.list_models: grpc.aio.UnaryUnaryMultiCallable[
            pb.ListModelsRequest, pb.ListModelsResponse
        ]
        self.list_models = self._channel.unary_unary(
            f"/{SERVICE}/ListModels",
            pb.ListModelsRequest.SerializeToString,
            pb.ListModelsResponse.FromString,
        )
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close(None)

    async def is_serving(self, service: str = SERVICE) -> bool:
        """Whether a server is there within a second and says that it serves."""
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await self._health.Check(request, timeout=_CONNECT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def models(self) -> tuple[str, ...]:
        """The names of what the server answers for. Raises ServeError as the server did."""
        try:
            answer = await self.list_models(pb.ListModelsRequest())
        except grpc.aio.AioRpcError as error:
            raise raised(error) from None
        return tuple(model.name for model in answer.models)

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """The answer, piece by piece. Raises ServeError as the server did."""
        call = self.chat_stream(convert.wire_request(request))
        try:
            async for piece in call:
                yield convert.chunk(piece)
        except grpc.aio.AioRpcError as error:
            raise raised(error) from None
        finally:
            call.cancel()
