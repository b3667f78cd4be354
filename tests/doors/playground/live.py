"""The page in front of live doors on free loopback ports, HTTP and gRPC over one hall."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic

from tests.doors.grpc.live import Tenant
from tests.doors.grpc.live import served as grpc_served
from vlserve.doors.http.server import HttpDoor
from vlserve.doors.openai import routes as openai
from vlserve.doors.playground import routes as playground
from vlserve.service.service import Service
from vlserve.settings import HttpSettings, LimitSettings


@dataclass(frozen=True)
class Live(Generic[Tenant]):
    """A server that listens at `url`, and the rooms behind it."""

    url: str
    engine: Tenant
    service: Service


@asynccontextmanager
async def served(
    engine: Tenant, *, is_open: bool = True, **limits: Any
) -> AsyncIterator[Live[Tenant]]:
    """Both doors in front of a started engine, with `limits` over the defaults."""
    bounds = LimitSettings(**limits)
    async with grpc_served(engine, is_open=is_open, **limits) as house:
        routers = [
            openai.routes(house.service, bounds),
            playground.routes(bounds, lambda: house.door.address),
        ]
        http = HttpDoor(house.service, routers, bounds, HttpSettings(port=0))
        await http.start()
        try:
            yield Live(f"http://{http.address}", engine, house.service)
        finally:
            await http.stop()
