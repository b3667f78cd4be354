"""The gRPC door: Chat, ChatStream, ListModels, health and reflection."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vlserve.doors.grpc import convert
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.grpc.status import rendered
from vlserve.errors import Code, ServeError, invalid
from vlserve.service import Service
from vlserve.settings import MIB, GrpcSettings, LimitSettings
from vlserve.types import Chunk

_LOG: Final = logging.getLogger(__name__)

SERVICE: Final = pb.DESCRIPTOR.services_by_name["VisionService"].full_name

# What a slow reader gets on top of the time that an answer may take.
_READ_GRACE_S: Final = 5.0
# For the last bytes of calls that have ended; health watchers would stay for ever.
_CLOSE_GRACE_S: Final = 1.0
_CHANNEL: Final = (
    ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a lottery
    ("grpc.keepalive_time_ms", 60_000),  # finds dead clients, whose work then stops
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)

Context = grpc.aio.ServicerContext[Any, Any]
_Wire = TypeVar("_Wire", pb.VisionRequest, pb.ListModelsRequest)


class VisionServicer:
    """The calls of vision.VisionService, one method each."""

    def __init__(self, service: Service, limits: LimitSettings) -> None:
        self._service = service
        self._limits = limits

    def handlers(self) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
        """The handler of each call by its name in the proto file."""
        return {
            "Chat": grpc.unary_unary_rpc_method_handler(
                self.chat, _vision_request, pb.VisionResponse.SerializeToString
            ),
            "ChatStream": grpc.unary_stream_rpc_method_handler(
                self.chat_stream, _vision_request, pb.VisionResponse.SerializeToString
            ),
            "ListModels": grpc.unary_unary_rpc_method_handler(
                self.list_models,
                _list_models_request,
                pb.ListModelsResponse.SerializeToString,
            ),
        }

    async def chat(self, wire: pb.VisionRequest | None, context: Context) -> pb.VisionResponse:
        """Answers once, when the answer is complete."""
        async with _errors_rendered(context, wire):
            model, answer = self._answer(wire, context)
            async with aclosing(answer):
                return convert.whole_response([chunk async for chunk in answer], model)
        raise AssertionError("the context above returns or raises")

    async def chat_stream(self, wire: pb.VisionRequest | None, context: Context) -> None:
        """Answers in pieces. A reader who takes too long is hung up on."""
        async with _errors_rendered(context, wire):
            model, answer = self._answer(wire, context)
            try:
                async with (
                    aclosing(answer),
                    asyncio.timeout(self._limits.timeout_s + _READ_GRACE_S) as patience,
                ):
                    async for chunk in answer:
                        if chunk.text or chunk.finish_reason or chunk.logprobs:
                            await context.write(convert.response(chunk, model))
            except TimeoutError:
                if patience.expired():
                    message = "the answer was not read in time"
                    raise ServeError(Code.DEADLINE_EXCEEDED, message) from None
                raise

    async def list_models(
        self, wire: pb.ListModelsRequest | None, context: Context
    ) -> pb.ListModelsResponse:
        """The models that this server answers for."""
        async with _errors_rendered(context, None):
            convert.refuse_unknown(_understood(wire), "request")
            return pb.ListModelsResponse(
                models=[convert.model(info) for info in self._service.models()]
            )
        raise AssertionError("the context above returns or raises")

    def _answer(
        self, wire: pb.VisionRequest | None, context: Context
    ) -> tuple[str, AsyncGenerator[Chunk]]:
        """The model's name and its answer."""
        request = convert.chat_request(_understood(wire), self._limits)
        (model,) = self._service.models()
        return model.model, self._service.chat(request, context.time_remaining())


def _vision_request(data: bytes) -> pb.VisionRequest | None:
    """None where `data` is no such message: raised here, the error would not be ours to word."""
    try:
        return pb.VisionRequest.FromString(data)
    except DecodeError:
        return None


def _list_models_request(data: bytes) -> pb.ListModelsRequest | None:
    try:
        return pb.ListModelsRequest.FromString(data)
    except DecodeError:
        return None


def _understood(wire: _Wire | None) -> _Wire:
    if wire is None:
        raise invalid("request", "is not a message of this call")
    return wire


@asynccontextmanager
async def _errors_rendered(context: Context, wire: pb.VisionRequest | None) -> AsyncIterator[None]:
    """Ends the call with the status of what is raised inside."""
    try:
        yield
        return
    except ServeError as raised:
        error = raised
        if wire is not None and error.field is not None:
            error.field = convert.callers_field(error.field, wire)
    except Exception:
        _LOG.exception("a request failed")
        error = ServeError(Code.INTERNAL, "the server failed to answer this request")
    status = rendered(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


class GrpcDoor:
    """Listens from `start` to `stop`. Health says SERVING from `announce(True)` on."""

    def __init__(self, service: Service, limits: LimitSettings, settings: GrpcSettings) -> None:
        self._settings = settings
        bound = limits.max_message_mib * MIB
        self._server = grpc.aio.server(
            options=(
                *_CHANNEL,
                ("grpc.max_receive_message_length", bound),
                ("grpc.max_send_message_length", bound),
            )
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        handlers = VisionServicer(service, limits).handlers()
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._port = 0

    @property
    def address(self) -> str:
        """`host:port`, with the port that was really taken."""
        return self._settings.address(self._port)

    async def start(self) -> None:
        """Listen, NOT_SERVING yet. Raises OSError where the address cannot be had."""
        self._port = self._settings.port
        try:
            self._port = self._server.add_insecure_port(self.address)
        except RuntimeError:
            raise OSError(f"cannot listen on {self.address}: is it in use?") from None
        await self.announce(is_serving=False)
        await self._server.start()

    async def announce(self, *, is_serving: bool) -> None:
        """What health says from now on, of the server and of the service."""
        statuses = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._health.set(name, statuses.SERVING if is_serving else statuses.NOT_SERVING)

    async def stop(self) -> None:
        """Close the connections. Calls that still run are cut off after a second."""
        await self._server.stop(_CLOSE_GRACE_S)
