"""Live HTTP and gRPC doors over one hall, and what their clients need."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import openai

from tests.doors.grpc.live import png
from tests.scripted import ScriptedEngine
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.server import GrpcDoor
from vlserve.doors.http.server import HttpDoor
from vlserve.doors.openai import routes as openai_door
from vlserve.doors.rest import routes as rest_door
from vlserve.engines.base import Engine
from vlserve.service.service import Service
from vlserve.settings import GrpcSettings, HttpSettings, LimitSettings

Tenant = TypeVar("Tenant", bound=Engine)


@dataclass(frozen=True)
class Answer:
    """What came back over a socket of our own."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass(frozen=True)
class House(Generic[Tenant]):
    """Doors that listen, and the rooms behind them."""

    http: HttpDoor
    grpc: GrpcDoor
    service: Service
    engine: Tenant

    @property
    def url(self) -> str:
        return f"http://{self.http.address}"

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        """The SDK as it is, without its retries."""
        usual: dict[str, Any] = {"max_retries": 0, "api_key": "none"}
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", **(usual | options))

    def grpc_client(self) -> GrpcClient:
        return GrpcClient(self.grpc.address, 64)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.http.address.rsplit(":", 1)
        return await asyncio.open_connection(host, int(port))

    async def send(self, raw: bytes, *, within_s: float = 5.0) -> Answer:
        """What bytes are answered with, on a connection of their own."""
        reader, writer = await self.connect()
        try:
            writer.write(raw)
            async with asyncio.timeout(within_s):
                return await read_answer(reader)
        finally:
            writer.close()

    async def get(self, path: str, method: str = "GET") -> Answer:
        return await self.send(f"{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())

    async def post(
        self, path: str, body: object, kind: str = "application/json", **headers: str
    ) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = request_head(path, len(data), kind, **headers)
        return await self.send(head + data)


def request_head(path: str, length: int, kind: str = "application/json", **headers: str) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """One HTTP/1.1 answer, its chunks put together."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines if line)
    }
    status = int(first.split()[1])
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body)
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    return Answer(status, headers, body)


@asynccontextmanager
async def served(
    engine: Tenant, *, is_open: bool = True, http: dict[str, Any] | None = None, **limits: Any
) -> AsyncIterator[House[Tenant]]:
    """Both doors in front of a started engine, with `limits`, and `http` of the HTTP door, over the
    defaults."""
    bounds = LimitSettings(**limits)
    service = Service(engine, bounds)
    routers = [openai_door.routes(service, bounds), rest_door.routes(service, bounds)]
    http_door = HttpDoor(service, routers, bounds, HttpSettings(port=0, **(http or {})))
    grpc = GrpcDoor(service, bounds, GrpcSettings(port=0))
    await http_door.start()
    await grpc.start()
    if is_open:
        service.open()
        await http_door.announce(is_serving=True)
        await grpc.announce(is_serving=True)
    try:
        yield House(http_door, grpc, service, engine)
    finally:
        await grpc.stop()
        await http_door.stop()
        service.close()


@asynccontextmanager
async def live(
    engine: ScriptedEngine | None = None, **limits: Any
) -> AsyncIterator[House[ScriptedEngine]]:
    """Both doors in front of an engine that a test can see into."""
    async with served(engine or ScriptedEngine(), **limits) as house:
        yield house


def data_url(data: bytes | None = None) -> str:
    return f"data:image/png;base64,{base64.b64encode(png() if data is None else data).decode()}"


def picture_part(data: bytes | None = None, **options: str) -> Any:
    return {"type": "image_url", "image_url": {"url": data_url(data), **options}}


def text_part(text: str) -> Any:
    return {"type": "text", "text": text}


def user(*parts: Any) -> Any:
    return {"role": "user", "content": parts[0] if isinstance(parts[0], str) else list(parts)}
