"""What running streams and health notice of whatever else a server does."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import grpc.aio
import httpx2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.faults import drawn_requests
from bench.serving import Served
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb

NUM_STREAMS = 8
MAX_MESSAGE_MIB = 1024
_ALONE_S = 1.0  # of the streams, before anything else
_POLL_S = 0.01
_SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(slots=True)
class Noticed:
    """What one phase did. `gaps_s` between the tokens of all streams, `health_s` by door;
    `refused` says how often whoever disturbed was answered how, `hostile_s` for how long."""

    gaps_s: list[float] = field(default_factory=list)
    health_s: dict[str, list[float]] = field(default_factory=lambda: {"gRPC": [], "HTTP": []})
    refused: Counter[str] = field(default_factory=Counter)
    hostile_s: float = 0.0


@asynccontextmanager
async def noticed_beside(server: Served, seed: int) -> AsyncIterator[Noticed]:
    """NUM_STREAMS streams, and health polled at both doors, while the context lasts; what they
    have noticed is there after it."""
    noticed, end, running = Noticed(), asyncio.Event(), asyncio.Event()
    requests = drawn_requests(seed, NUM_STREAMS)
    for wire in requests:
        wire.sampling.max_tokens = wire.sampling.min_tokens = 400
    async with (
        GrpcClient(server.grpc, MAX_MESSAGE_MIB) as streams,
        grpc.aio.insecure_channel(server.grpc) as channel,
        httpx2.AsyncClient(base_url=f"http://{server.http}", timeout=None) as client,
        asyncio.TaskGroup() as tasks,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        async def serves() -> bool:  # however long it takes: that is what is measured
            return bool((await health.Check(health_pb2.HealthCheckRequest())).status == _SERVING)

        async def lives() -> bool:
            return (await client.get("/health/live")).status_code == 200

        asked = [tasks.create_task(_stream(streams, w, running.set, end)) for w in requests]
        await running.wait()
        await asyncio.sleep(_ALONE_S)
        for door, ask in (("gRPC", serves), ("HTTP", lives)):
            tasks.create_task(_poll(ask, noticed.health_s[door], end))
        yield noticed
        end.set()
        noticed.gaps_s = [gap for gaps in await asyncio.gather(*asked) for gap in gaps]


async def _stream(
    client: GrpcClient, wire: pb.VisionRequest, begun: Callable[[], None], end: asyncio.Event
) -> list[float]:
    """Gaps between the pieces of answers, one answer after the other until `end`, s."""
    gaps: list[float] = []
    while not end.is_set():
        stamps = []
        async for _ in client.chat_stream(wire):
            stamps.append(time.perf_counter())
            begun()
            if end.is_set():
                break
        gaps += [after - before for before, after in pairwise(stamps)]
    return gaps


async def _poll(ask: Callable[[], Awaitable[bool]], times: list[float], end: asyncio.Event) -> None:
    """Ask until `end`, and note how long each took."""
    while not end.is_set():
        begin = time.perf_counter()
        if not await ask():
            raise SystemExit("health said that it does not serve")
        times.append(time.perf_counter() - begin)
        await asyncio.sleep(_POLL_S)
