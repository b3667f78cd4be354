"""What crosses the wall between the front and an engine's process: typed messages in frames.

A frame is a length, that many bytes of MessagePack, and then the pixels of each picture in it as
they are. Only the types below can come out of one; no frame runs code.
"""

import asyncio
import socket
import struct
from typing import Any, Final, Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from vlserve.engines.base import EngineInfo, Load
from vlserve.errors import Code, ServeError
from vlserve.types import Chunk, Request, TokenCount

_LENGTH: Final = struct.Struct("!I")
_RECEIVE_BYTES: Final = 64 * 1024


class Start(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To the worker, first of all: which engine, both settings as JSON."""

    model: str
    engine: str


class Submit(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To the worker: answer this. `key` is the front's, and unlike the request's id its own."""

    key: int
    request: Request


class Count(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To the worker: say what the prompt of this takes."""

    key: int
    request: Request


class Cancel(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To the worker: nobody waits for this answer or count any more."""

    key: int


class Started(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """From the worker: the engine has started."""

    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """From the worker: the engine did not start. `kind` is the name of an error's class that the
    front knows, or empty."""

    kind: str
    message: str


class Running(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """From the worker: this request runs now."""

    key: int


class Piece(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """From the worker: a piece of an answer."""

    key: int
    chunk: Chunk


class Counted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """From the worker: what the prompt of a request takes."""

    key: int
    count: TokenCount


class Ended(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """From the worker: this answer is complete."""

    key: int


class Refused(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """From the worker: this request ends with a ServeError of these parts."""

    key: int
    code: Code
    message: str
    field: str | None
    retry_after_s: float | None


class Beat(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """From the worker: it lives. `stalled_s` is for how long there was work and no step, s."""

    load: Load
    stalled_s: float


ToWorker = Start | Submit | Count | Cancel
FromWorker = Started | Failed | Running | Piece | Ended | Counted | Refused | Beat
Incoming = TypeVar("Incoming")


class WireError(Exception):
    """What came is no message, or what goes cannot. The text says why, without what it held."""


class Channel(Generic[Incoming]):
    """Messages over a connected stream socket, one sender and one receiver at a time.

    `incoming` is the union of what may come, `max_bytes` bounds one such message without its
    pixels. Whatever its size, a message is passed on in pieces, and the loop is free in between.
    """

    def __init__(self, connection: socket.socket, incoming: Any, max_bytes: int) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._max_bytes = max_bytes
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._shape)
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(
            incoming, dec_hook=self._array
        )
        self._leaving: list[npt.NDArray[np.uint8]] = []
        self._coming: list[npt.NDArray[np.uint8]] = []
        self._buffer = bytearray()
        self._at = 0

    async def send(self, *messages: ToWorker | FromWorker) -> None:
        """Returns when all of it is on its way. Raises EOFError where nobody receives, and
        WireError, before anything of it is sent, for a message that cannot cross."""
        frames = bytearray()
        for message in messages:
            self._leaving.clear()
            try:
                body = self._encoder.encode(message)
            except (OverflowError, TypeError, UnicodeError) as error:
                raise WireError(f"a message cannot cross: {type(error).__name__}") from error
            frames += _LENGTH.pack(len(body)) + body
            while self._leaving:
                pixels = self._leaving.pop(0).data.cast("B")
                await self._write(frames)
                await self._write(pixels)
                frames = bytearray()
        await self._write(frames)

    async def receive(self) -> Incoming:
        """The next message. Its pixels are read-only arrays, received where they stay.

        Raises EOFError where the other side is gone and WireError for what is no message;
        nothing can be received after that.
        """
        (length,) = _LENGTH.unpack(await self._read(_LENGTH.size))
        if length > self._max_bytes:
            raise WireError(f"a message of {length} bytes, at most {self._max_bytes} are taken")
        body = await self._read(length)
        self._coming = []
        try:
            message = self._decoder.decode(body)
        except (msgspec.MsgspecError, ServeError, ValueError) as error:
            raise WireError(f"{length} bytes are no message: {type(error).__name__}") from None
        arrays, self._coming = self._coming, []
        for array in arrays:
            await self._read_into(array.data.cast("B"))
            array.flags.writeable = False
        return message

    async def drained(self) -> None:
        """Drops whatever still comes and returns when the other side is gone."""
        try:
            while True:
                await self._fill()
                self._buffer.clear()
                self._at = 0
        except EOFError:
            return

    def end_sending(self) -> None:
        """The other side gets EOFError and may still answer."""
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it is gone already

    def close(self) -> None:
        """Let the socket go, once nobody sends or receives."""
        self._connection.close()

    def _shape(self, value: object) -> list[int]:
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
            raise TypeError(f"{type(value).__name__} does not cross")
        self._leaving.append(np.ascontiguousarray(value))
        return list(value.shape)

    def _array(self, kind: type, shape: object) -> npt.NDArray[np.uint8]:
        match shape:
            case [int(height), int(width), 3] if height > 0 and width > 0:
                array = np.empty((height, width, 3), np.uint8)
                self._coming.append(array)
                return array
        raise ValueError("no shape of a picture")

    async def _write(self, data: bytearray | memoryview) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._connection, data)
        except OSError:
            raise EOFError from None

    async def _read(self, length: int) -> bytes:
        while len(self._buffer) - self._at < length:
            await self._fill()
        begin, self._at = self._at, self._at + length
        return bytes(memoryview(self._buffer)[begin : self._at])

    async def _read_into(self, target: memoryview) -> None:
        at = min(len(target), len(self._buffer) - self._at)
        target[:at] = await self._read(at)
        loop = asyncio.get_running_loop()
        while at < len(target):
            try:
                num_bytes = await loop.sock_recv_into(self._connection, target[at:])
            except OSError:
                raise EOFError from None
            if num_bytes == 0:
                raise EOFError
            at += num_bytes
            await asyncio.sleep(0)

    async def _fill(self) -> None:
        """At least a byte more in the buffer."""
        del self._buffer[: self._at]
        self._at = 0
        loop = asyncio.get_running_loop()
        try:
            data = await loop.sock_recv(self._connection, _RECEIVE_BYTES)
        except OSError:
            raise EOFError from None
        if not data:
            raise EOFError
        self._buffer += data
        # What is there is received without a wait: whoever else has to run runs here.
        await asyncio.sleep(0)
