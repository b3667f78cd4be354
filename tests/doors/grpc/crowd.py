"""Clients that come again when they are told to, and clients that leave in the middle."""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass

import grpc
import grpc.aio

from tests.doors.grpc.live import retry_after_s
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True)
class Outcome:
    """What a client that comes again as told went through."""

    text: str
    told_s: list[float]


async def persistent(address: str, wire: pb.VisionRequest) -> Outcome:
    """Ask over a connection of one's own until answered. Raises on any other error."""
    told_s: list[float] = []
    async with grpc.aio.insecure_channel(address, options=OWN_CONNECTION) as channel:
        chat = channel.unary_unary(
            "/vision.VisionService/Chat",
            pb.VisionRequest.SerializeToString,
            pb.VisionResponse.FromString,
        )
        while True:
            try:
                return Outcome((await chat(wire, wait_for_ready=True)).text, told_s)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                told_s.append(retry_after_s(error))
            await asyncio.sleep(told_s[-1])


async def leave(client: GrpcClient, wire: pb.VisionRequest, after_s: float, kind: str) -> None:
    """One call that is cancelled or out of time after `after_s`, unless answered before.

    `kind` names the call and the way: "unary cancel", "stream deadline" and so on.
    """
    call_kind, way = kind.split()
    timeout_s = after_s if way == "deadline" else None
    reading: asyncio.Task[None]
    call: grpc.aio.Call
    if call_kind == "stream":
        stream = client.chat_stream(wire, timeout=timeout_s)
        call, reading = stream, asyncio.create_task(_read(stream))
    else:
        unary = client.chat(wire, timeout=timeout_s)
        call, reading = unary, asyncio.create_task(_wait(unary))
    if way == "cancel":
        await asyncio.sleep(after_s)
        call.cancel()
    await reading
    left = grpc.StatusCode.DEADLINE_EXCEEDED if way == "deadline" else grpc.StatusCode.CANCELLED
    assert await call.code() in (left, grpc.StatusCode.OK)


def random_kind(chance: random.Random) -> str:
    """Any of the four."""
    return f"{chance.choice(['unary', 'stream'])} {chance.choice(['cancel', 'deadline'])}"


async def _read(call: "grpc.aio.UnaryStreamCall[pb.VisionRequest, pb.VisionResponse]") -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        async for _ in call:
            pass


async def _wait(call: "grpc.aio.UnaryUnaryCall[pb.VisionRequest, pb.VisionResponse]") -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await call
