"""The calls of inference.GRPCInferenceService."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from vlserve.doors.fields import fields_named
from vlserve.doors.grpc.calls import (
    Context,
    Handlers,
    Wire,
    counted,
    errors_rendered,
    read_in_time,
    reader,
    refuse_unknown,
    understood,
    worded,
)
from vlserve.doors.kserve import metadata
from vlserve.doors.kserve.answer import Answers
from vlserve.doors.kserve.convert import VERSION, check_version, infer_call
from vlserve.doors.kserve.pb import inference_pb2 as pb
from vlserve.doors.kserve.statistics import Statistics
from vlserve.engines.base import EngineInfo
from vlserve.errors import ServeError, invalid
from vlserve.service.service import Service
from vlserve.settings import LimitSettings
from vlserve.timings import Timings

SERVICE: Final = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
# Requests of one stream that are answered side by side; the next one is read when one has ended.
MAX_AT_ONCE: Final = 64

About = (
    pb.ModelReadyRequest
    | pb.ModelMetadataRequest
    | pb.ModelConfigRequest
    | pb.ModelStatisticsRequest
)


class InferenceServicer:
    """One method for each call. `is_serving` is asked what readiness is to say."""

    def __init__(
        self, service: Service, limits: LimitSettings, is_serving: Callable[[], bool]
    ) -> None:
        self._service = service
        self._limits = limits
        self._is_serving = is_serving
        self._statistics = Statistics()

    def handlers(self) -> Handlers:
        """The handler of each call by its name in the proto file."""
        request = reader(pb.ModelInferRequest)
        return {
            "ServerLive": _handler(pb.ServerLiveRequest, self.server_live),
            "ServerReady": _handler(pb.ServerReadyRequest, self.server_ready),
            "ModelReady": _handler(pb.ModelReadyRequest, self.model_ready),
            "ServerMetadata": _handler(pb.ServerMetadataRequest, lambda _: metadata.server()),
            "ModelMetadata": _handler(
                pb.ModelMetadataRequest, lambda about: metadata.model(self._model(about))
            ),
            "ModelConfig": _handler(
                pb.ModelConfigRequest, lambda about: metadata.config(self._model(about))
            ),
            "ModelStatistics": _handler(pb.ModelStatisticsRequest, self.model_statistics),
            "RepositoryIndex": _handler(pb.RepositoryIndexRequest, self.repository_index),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                self.model_infer, request, pb.ModelInferResponse.SerializeToString
            ),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                self.model_stream_infer, request, pb.ModelStreamInferResponse.SerializeToString
            ),
        }

    def server_live(self, wire: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """It answers."""
        del wire
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, wire: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """As health says it."""
        del wire
        return pb.ServerReadyResponse(ready=self._is_serving())

    def model_ready(self, wire: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """As the server, for the model that is served; another one is not ready."""
        try:
            self._model(wire)
        except ServeError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._is_serving())

    def model_statistics(self, wire: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """What this service has answered since the server started."""
        return pb.ModelStatisticsResponse(
            model_stats=[self._statistics.of(self._model(wire).model)]
        )

    def repository_index(self, wire: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """The one model; none where only ready ones are asked for and it is not."""
        is_serving = self._is_serving()
        if wire.ready and not is_serving:
            return pb.RepositoryIndexResponse()
        index = pb.RepositoryIndexResponse.ModelIndex(
            name=self._service.info.model,
            version=VERSION,
            state="READY" if is_serving else "UNAVAILABLE",
        )
        return pb.RepositoryIndexResponse(models=[index])

    async def model_infer(
        self, wire: pb.ModelInferRequest | None, context: Context
    ) -> pb.ModelInferResponse:
        """Answers once, when the answer is complete."""
        async with (
            errors_rendered(context),
            aclosing(self._responses(wire, context, may_stream=False)) as responses,
        ):
            return await anext(responses)
        raise AssertionError("the context above returns or raises")

    async def model_stream_infer(
        self, wires: AsyncIterator[pb.ModelInferRequest | None], context: Context
    ) -> None:
        """Answers many requests side by side. A reader who takes too long is hung up on."""
        writing = asyncio.Lock()
        places = asyncio.Semaphore(MAX_AT_ONCE)

        async def answer(wire: pb.ModelInferRequest | None) -> None:
            responses = self._stream_responses(wire, context)
            try:
                async with read_in_time(self._limits), aclosing(responses):
                    async for response in responses:
                        async with writing:
                            await context.write(response)
            finally:
                places.release()

        async with errors_rendered(context):
            try:
                async with asyncio.TaskGroup() as group:
                    async for wire in wires:
                        await places.acquire()
                        group.create_task(answer(wire))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None

    async def _stream_responses(
        self, wire: pb.ModelInferRequest | None, context: Context
    ) -> AsyncGenerator[pb.ModelStreamInferResponse]:
        """The responses to one request, or what came of it: an error is its alone."""
        try:
            async with aclosing(self._responses(wire, context, may_stream=True)) as responses:
                async for response in responses:
                    yield pb.ModelStreamInferResponse(infer_response=response)
        except Exception as raised:
            last = pb.ModelInferResponse(id=wire.id if wire else "")
            last.parameters["triton_final_response"].bool_param = True
            message = str(worded(raised))
            yield pb.ModelStreamInferResponse(error_message=message, infer_response=last)

    async def _responses(
        self, wire: pb.ModelInferRequest | None, context: Context, *, may_stream: bool
    ) -> AsyncGenerator[pb.ModelInferResponse]:
        """One response, or as many as there are pieces where the caller asks for them."""
        known = understood(wire)
        request = infer_call(known, self._limits)
        if request.is_stream and not may_stream:
            raise invalid("stream", "only ModelStreamInfer answers in pieces")
        answers = Answers(request, known.id, self._service.info.model)
        bounds = (request.timeout_s, context.time_remaining())
        timeout_s = min((bound for bound in bounds if bound is not None), default=None)
        with (
            self._statistics.counted(),
            fields_named(request.names),
            counted(self._service, wire),
        ):
            timings = Timings()
            async with aclosing(self._service.chat(request.chat, timeout_s)) as chunks:
                async for chunk in chunks:
                    answers.take(chunk)
                    timings = chunk.timings or timings
                    if request.is_stream and answers.is_worth_sending:
                        yield answers.response()
            self._statistics.stages(timings)
        if not request.is_stream:
            yield answers.response()

    def _model(self, about: About) -> EngineInfo:
        """The model that a caller asks about. Raises ServeError(NOT_FOUND)."""
        check_version(about.version)
        service = self._service
        return service.find_model(about.name, "name") if about.name else service.info


def _handler(
    kind: type[Wire], answer: Callable[[Wire], Message]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Of a call that is answered at once."""

    async def call(wire: Wire | None, context: Context) -> Message:
        async with errors_rendered(context):
            known = understood(wire)
            refuse_unknown(known)
            return answer(known)
        raise AssertionError("the context above returns or raises")

    return grpc.unary_unary_rpc_method_handler(call, reader(kind), _serialized)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
