"""Callers at each door who send a request, or half of one, and leave in one of three ways."""

import asyncio
import base64
import json
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import grpc.aio
import h2.config
import h2.connection
import h2.events

from tests.doors.grpc.crowd import OWN_CONNECTION
from tests.doors.kserve.asked import SERVICE as KSERVE
from tests.doors.kserve.asked import asked
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.grpc.vision import SERVICE as VISION
from vlserve.doors.kserve.pb import inference_pb2 as kserve

_LINGER = struct.pack("ii", 1, 0)  # close by a reset
_JSON = "application/json"


class Door(StrEnum):
    """Where they ask. REST has no stream, so KServe's stands beside it."""

    GRPC = "gRPC"
    OPENAI = "OpenAI"
    REST = "REST"
    KSERVE = "KServe"

    @property
    def is_grpc(self) -> bool:
        """Whether it speaks gRPC."""
        return self in {Door.GRPC, Door.KSERVE}


class Way(StrEnum):
    """How they leave: the call alone, or the connection, by its end or a reset."""

    CANCEL = "cancel"
    CLOSE = "close"
    RESET = "reset"


class Caller(ABC):
    """One call on a connection of its own."""

    @abstractmethod
    async def send(self, *, half: bool = False) -> None:
        """All of the request, or its beginning."""

    @abstractmethod
    async def heard(self) -> None:
        """Returns when something of the answer has come."""

    @abstractmethod
    async def leave(self) -> None:
        """Be gone."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of what there still is, afterwards."""


class Raw(Caller):
    """What writes to a socket itself, from `port`."""

    port: int
    _reading: "asyncio.Task[None]"

    def __init__(self, address: str, way: Way) -> None:
        self._address = address
        self._way = way
        self._heard = asyncio.Event()

    async def _connect(self) -> None:
        host, port = self._address.rsplit(":", 1)
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        self.port = self._writer.get_extra_info("sockname")[1]

    @property
    def is_gone(self) -> bool:
        """Whether to leave is to end the connection."""
        return self._way is not Way.CANCEL

    async def heard(self) -> None:
        await self._heard.wait()

    async def leave(self) -> None:
        if self._way is Way.RESET:
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(self._reading, return_exceptions=True)
            await self._writer.wait_closed()


class Http1(Raw):
    """HTTP/1.1."""

    def __init__(self, address: str, way: Way, path: str, body: bytes) -> None:
        super().__init__(address, way)
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {_JSON}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        self._body = body

    async def send(self, *, half: bool = False) -> None:
        await self._connect()
        body = self._body[: len(self._body) // 2] if half else self._body
        self._writer.write(self._head + body)
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with suppress(ConnectionError):
            while await self._reader.read(1 << 16):
                self._heard.set()


class Http2(Raw):
    """HTTP/2 without TLS, as gRPC speaks it."""

    def __init__(
        self, address: str, way: Way, path: str, body: bytes, *, is_open: bool = False
    ) -> None:
        super().__init__(address, way)
        self._headers = [
            (":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "h"),
            ("content-type", "application/grpc"), ("te", "trailers"),
        ]  # fmt: skip
        self._body = body
        self._is_open = is_open  # a stream of requests may have more of them
        self._wire = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))

    async def send(self, *, half: bool = False) -> None:
        await self._connect()
        self._wire.initiate_connection()
        self._wire.send_headers(1, self._headers)
        body = self._body[: len(self._body) // 2] if half else self._body
        self._wire.send_data(1, body, end_stream=not half and not self._is_open)
        self._flush()
        self._reading = asyncio.create_task(self._read())

    def _flush(self) -> None:
        self._writer.write(self._wire.data_to_send())

    async def _read(self) -> None:
        with suppress(ConnectionError):
            while data := await self._reader.read(1 << 16):
                for event in self._wire.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        self._heard.set()
                if not self._writer.is_closing():
                    self._flush()


class Stub(Caller):
    """grpc.aio's own client, which cancels the call and keeps its connection."""

    def __init__(self, address: str, path: str, wire: Any, *, is_stream: bool) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=OWN_CONNECTION)
        self._path = path
        self._wire = wire
        self._is_stream = is_stream
        self._heard = asyncio.Event()

    async def send(self, *, half: bool = False) -> None:
        assert not half, "the client sends whole messages"
        self._call: Any
        if isinstance(self._wire, kserve.ModelInferRequest):
            self._call = self._channel.stream_stream(self._path, _serialized, bytes)(self._wires())
        elif self._is_stream:
            self._call = self._channel.unary_stream(self._path, _serialized, bytes)(self._wire)
        else:
            self._call = self._channel.unary_unary(self._path, _serialized, bytes)(self._wire)
        self._reading = asyncio.create_task(self._read())

    async def heard(self) -> None:
        await self._heard.wait()

    async def leave(self) -> None:
        self._call.cancel()

    async def close(self) -> None:
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._channel.close(None)

    async def _wires(self) -> AsyncIterator[kserve.ModelInferRequest]:
        yield self._wire
        await asyncio.Event().wait()

    async def _read(self) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            if self._is_stream:
                async for _ in self._call:
                    self._heard.set()
            else:
                await self._call


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked about a picture, which comes along or, where there is one, is behind `url`."""

    text: str
    picture: bytes
    url: str
    is_stream: bool
    max_tokens: int

    @property
    def data_url(self) -> str:
        """The picture in a URL."""
        return f"data:image/png;base64,{base64.b64encode(self.picture).decode()}"


def grpc_caller(address: str, door: Door, way: Way, ask: Ask, *, half: bool) -> Caller:
    """At one of the doors that speak gRPC. Who sends only `half` writes to the socket itself."""
    path, wire = _inference(ask) if door is Door.KSERVE else _vision(ask)
    if way is Way.CANCEL and not half:
        return Stub(address, path, wire, is_stream=ask.is_stream)
    message = _serialized(wire)
    framed = struct.pack(">BI", 0, len(message)) + message
    # A stream of requests may have more of them.
    return Http2(address, way, path, framed, is_open=door is Door.KSERVE)


def http_caller(address: str, door: Door, way: Way, ask: Ask) -> Caller:
    """At one of the doors that speak HTTP."""
    if door is Door.REST:
        path = "/process_image"
        body: dict[str, Any] = {"image_data": ask.data_url, "prompt": ask.text}
    else:
        path = "/v1/chat/completions"
        content = [
            {"type": "image_url", "image_url": {"url": ask.url or ask.data_url}},
            {"type": "text", "text": ask.text},
        ]
        messages = [{"role": "user", "content": content}]
        body = {"messages": messages, "max_tokens": ask.max_tokens, "stream": ask.is_stream}
    encoded = json.dumps(body).encode()
    return Http1(address, way, path, encoded)


def _inference(ask: Ask) -> tuple[str, kserve.ModelInferRequest]:
    assert not ask.url
    sampling = {"max_tokens": ask.max_tokens}
    wire = asked(ask.text, images=(ask.picture,), sampling=sampling, flags={"stream": True})
    return f"/{KSERVE}/ModelStreamInfer", wire


def _vision(ask: Ask) -> tuple[str, pb.VisionRequest]:
    sampling = pb.Sampling(max_tokens=ask.max_tokens)
    wire = pb.VisionRequest(prompt=ask.text, sampling=sampling)
    if ask.url:
        wire.image_url = ask.url
    else:
        wire.image = ask.picture
    return f"/{VISION}/{'ChatStream' if ask.is_stream else 'Chat'}", wire


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
