"""The page in front of a live server on free loopback ports: HTTP and gRPC over one hall."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic

from tests.doors.grpc.live import Tenant
from tests.doors.grpc.live import served as grpc_served
from tests.doors.playground.interim import http_served, openai_routes
from vlserve.doors.playground.routes import routes
from vlserve.service import Service
from vlserve.settings import LimitSettings


@dataclass(frozen=True)
class Live(Generic[Tenant]):
    """A server that listens at `url`, and the rooms behind it."""

    url: str
    engine: Tenant
    service: Service


@asynccontextmanager
async def served(engine: Tenant, **limits: Any) -> AsyncIterator[Live[Tenant]]:
    """Both doors in front of a started engine, with `limits` over the defaults."""
    async with grpc_served(engine, **limits) as house:
        page = routes(LimitSettings(**limits), lambda: house.door.address)
        async with http_served(openai_routes(house.service), page) as url:
            yield Live(url, engine, house.service)
