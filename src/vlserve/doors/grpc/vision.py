"""The calls of vision.VisionService."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import grpc

from vlserve.doors.fields import fields_named
from vlserve.doors.grpc import convert
from vlserve.doors.grpc.calls import (
    Context,
    Handlers,
    counted,
    errors_rendered,
    read_in_time,
    reader,
    refuse_unknown,
    understood,
)
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.service.service import Service
from vlserve.service.settled import settled
from vlserve.settings import LimitSettings
from vlserve.types import Chunk

SERVICE: Final = pb.DESCRIPTOR.services_by_name["VisionService"].full_name
_REQUEST: Final = reader(pb.VisionRequest)


class VisionServicer:
    """One method for each call."""

    def __init__(self, service: Service, limits: LimitSettings) -> None:
        self._service = service
        self._limits = limits

    def handlers(self) -> Handlers:
        """The handler of each call by its name in the proto file."""
        return {
            "Chat": grpc.unary_unary_rpc_method_handler(
                self.chat, _REQUEST, pb.VisionResponse.SerializeToString
            ),
            "ChatStream": grpc.unary_stream_rpc_method_handler(
                self.chat_stream, _REQUEST, pb.VisionResponse.SerializeToString
            ),
            "CountTokens": grpc.unary_unary_rpc_method_handler(
                self.count_tokens, _REQUEST, pb.TokenCount.SerializeToString
            ),
            "ListModels": grpc.unary_unary_rpc_method_handler(
                self.list_models,
                reader(pb.ListModelsRequest),
                pb.ListModelsResponse.SerializeToString,
            ),
        }

    async def chat(self, wire: pb.VisionRequest | None, context: Context) -> pb.VisionResponse:
        """Answers once, when the answer is complete."""
        async with errors_rendered(context):
            with fields_named(convert.names(wire)), counted(self._service, wire):
                model, answer = self._answer(wire, context)
                async with aclosing(answer):
                    return convert.whole_response([chunk async for chunk in answer], model)
        raise AssertionError("the context above returns or raises")

    async def chat_stream(self, wire: pb.VisionRequest | None, context: Context) -> None:
        """Answers in pieces. A reader who takes too long is hung up on."""
        async with errors_rendered(context):
            with fields_named(convert.names(wire)), counted(self._service, wire):
                model, answer = self._answer(wire, context)
                async with aclosing(answer), read_in_time(self._limits):
                    async for chunk in answer:
                        if chunk.text or chunk.finish_reason or chunk.logprobs or chunk.timings:
                            await context.write(convert.response(chunk, model))

    async def count_tokens(self, wire: pb.VisionRequest | None, context: Context) -> pb.TokenCount:
        """What a request takes of the context; it is not answered."""
        async with errors_rendered(context):
            with fields_named(convert.names(wire)), counted(self._service, wire):
                request = convert.chat_request(understood(wire), self._limits)
                model = self._service.info
                count = await self._service.count(request, context.time_remaining())
            asked = settled(request, model, self._limits)
            return convert.token_count(count, asked.sampling.max_tokens, model)
        raise AssertionError("the context above returns or raises")

    async def list_models(
        self, wire: pb.ListModelsRequest | None, context: Context
    ) -> pb.ListModelsResponse:
        """The models that this server answers for."""
        async with errors_rendered(context):
            refuse_unknown(understood(wire))
            return pb.ListModelsResponse(models=[convert.model(self._service.info)])
        raise AssertionError("the context above returns or raises")

    def _answer(
        self, wire: pb.VisionRequest | None, context: Context
    ) -> tuple[str, AsyncGenerator[Chunk]]:
        """The model's name and its answer."""
        request = convert.chat_request(understood(wire), self._limits)
        return self._service.info.model, self._service.chat(request, context.time_remaining())
