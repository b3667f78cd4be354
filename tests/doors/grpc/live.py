"""A live door on a free loopback port, and what a client of it needs."""

import io
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from tests.scripted import ScriptedEngine
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.grpc.server import GrpcDoor
from vlserve.doors.kserve import servicer as kserve
from vlserve.engines.base import Engine
from vlserve.service.service import Service
from vlserve.settings import GrpcSettings, LimitSettings

MAX_MESSAGE_MIB = 64
Detail = TypeVar("Detail", bound=Message)
Tenant = TypeVar("Tenant", bound=Engine)


@dataclass(frozen=True)
class Live(Generic[Tenant]):
    """A door that listens, and the rooms behind it."""

    door: GrpcDoor
    service: Service
    engine: Tenant
    client: GrpcClient


@dataclass(frozen=True)
class Refusal:
    """How a call failed."""

    error: grpc.aio.AioRpcError
    texts: list[str]


def live(
    engine: ScriptedEngine | None = None, *, is_open: bool = True, **limits: Any
) -> AbstractAsyncContextManager[Live[ScriptedEngine]]:
    """The door in front of an engine that a test can see into."""
    return served(engine or ScriptedEngine(), is_open=is_open, **limits)


@asynccontextmanager
async def served(
    engine: Tenant, *, is_open: bool = True, **limits: Any
) -> AsyncIterator[Live[Tenant]]:
    """The door in front of a started engine, with `limits` over the defaults."""
    bounds = LimitSettings(**{"max_message_mib": MAX_MESSAGE_MIB, **limits})
    service = Service(engine, bounds)
    door = GrpcDoor(service, bounds, GrpcSettings(port=0))
    inference = kserve.InferenceServicer(service, bounds, lambda: door.is_serving)
    door.add(kserve.SERVICE, inference.handlers())
    await door.start()
    if is_open:
        service.open()
        await door.announce(is_serving=True)
    try:
        async with GrpcClient(door.address, MAX_MESSAGE_MIB) as client:
            yield Live(door, service, engine, client)
    finally:
        await door.stop()
        service.close()


def png(colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (8, 6)) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def detail(error: grpc.aio.AioRpcError, kind: type[Detail]) -> Detail:
    """The one detail of that kind that came with a status."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has what it needs
    assert status is not None, error
    found = [item for item in status.details if item.Is(kind.DESCRIPTOR)]
    assert len(found) == 1, status
    message = kind()
    found[0].Unpack(message)
    return message


def retry_after_s(error: grpc.aio.AioRpcError) -> float:
    """How long the server asked to wait."""
    delay = detail(error, error_details_pb2.RetryInfo).retry_delay
    return float(delay.ToMilliseconds()) / 1000


async def refusal(client: GrpcClient, wire: pb.VisionRequest, *, is_stream: bool) -> Refusal:
    """The status that a call which must fail ended with, and the text that came before it."""
    texts: list[str] = []
    try:
        if is_stream:
            async for piece in client.chat_stream(wire):
                texts.append(piece.text)  # noqa: PERF401  what came before the error counts
        else:
            texts.append((await client.chat(wire)).text)
    except grpc.aio.AioRpcError as error:
        return Refusal(error, texts)
    raise AssertionError(f"answered: {texts}")
