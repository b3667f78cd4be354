"""The processes that decode, seen from the front: asked, waited for, and what they died of."""

import asyncio
import fcntl
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vlserve.errors import Code, ServeError
from vlserve.media.errors import Refused
from vlserve.media.wire import (
    MAX_BYTES,
    Bounds,
    Decoded,
    Died,
    Refusal,
    Size,
    Task,
    answer,
    encoded,
)

WORKER: Final = "vlserve.media.worker"
# Times that a picture is tried when its process is gone without a fault of its own.
MAX_TRIES: Final = 2
# Beyond a picture's own time, in s: for the worker to start, and to say what its child died of.
GRACE_S: Final = 10.0
_PIECE_BYTES: Final = 2**20
_END_S: Final = 2.0
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
_log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]


class _Lost(Exception):  # noqa: N818  not an error of ours: a process is gone
    """The process was gone before it answered, by no fault of the picture that is known."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What is to be decoded: the caller's bytes, as a video's frames where `max_frames` is above
    0, each of at most `max_pixels` pixels."""

    data: bytes
    max_pixels: int
    max_frames: int = 0


class Decoders:
    """Processes that decode, `num` at a time, each for one picture and within `bounds`."""

    def __init__(self, num: int, bounds: Bounds) -> None:
        self._bounds = bounds
        self._places = asyncio.Semaphore(num)
        self._worker: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The number of the process that forks the others, None while there is none."""
        return self._worker.pid if self._worker else None

    def start(self) -> None:
        """Start the process that forks the others, where there is none. Does not wait for it."""
        if self._worker is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._worker = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
        ours.setblocking(False)
        self._control = ours

    def close(self) -> None:
        """End all processes. Whoever waits for one, which nobody should, is told UNAVAILABLE."""
        self._is_closed = True
        self._end()

    async def num_pixels(self, what: Encoded) -> int:
        """The pixels of all frames, by the header alone. Raises as `frames` does."""
        async with self._places:
            found = await self._answer(what, only_size=True)
        if not isinstance(found, Size):
            raise _failed()
        return found.num_pixels

    async def frames(self, what: Encoded) -> list[Pixels]:
        """The decoded frames, one of a picture: uint8[height, width, 3] each, read-only.

        Raises Refused for what is not taken, and for what takes too much time or memory or ends
        its process; ServeError(INTERNAL) where no process could decode it.
        """
        async with self._places:
            found = await self._answer(what, only_size=False)
        if isinstance(found, Size):
            raise _failed()
        return found

    async def _answer(self, what: Encoded, *, only_size: bool) -> Size | list[Pixels]:
        died: Died | None = None
        for _ in range(MAX_TRIES):
            try:
                found = await self._tried(what, only_size=only_size)
            except _Lost as lost:
                _log.warning("a picture's process is gone (%s)", lost)
                continue
            match found:
                case Refusal(reason):
                    raise Refused(reason)
                case Died(_, is_late):
                    if is_late:
                        raise Refused("takes too long to decode")
                    died = found
                    _log.error("a picture's process died of %s", _name(died.signal))
                    # Who kills is not known: the kernel out of memory, or somebody else.
                    if died.signal != signal.SIGKILL:
                        break
                case _:
                    return found
        if died is None:
            raise _failed()
        raise Refused("ends the process that decodes it")

    async def _tried(
        self, what: Encoded, *, only_size: bool
    ) -> Size | list[Pixels] | Refusal | Died:
        task = Task(what.max_frames, what.max_pixels, only_size, self._bounds)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Where nobody waits any more, `ours` closes, and by that the process ends.
        with ours, theirs, _file("encoded") as source, _file("pixels") as pixels:
            ours.setblocking(False)
            await _write(source, what.data)
            self._send(encoded(task), [theirs.fileno(), source, pixels])
            theirs.close()
            try:
                async with asyncio.timeout(self._bounds.clock_s + GRACE_S):
                    datagram = await asyncio.get_running_loop().sock_recv(ours, MAX_BYTES)
            except TimeoutError:
                self._kill()
                raise _Lost("no answer") from None
            except OSError:
                raise _Lost("no answer") from None
            try:
                found = answer(datagram)
            except ValueError:
                raise _Lost("no word" if datagram else "no process") from None
            return _mapped(pixels, found.shapes) if isinstance(found, Decoded) else found

    def _send(self, datagram: bytes, fds: list[int]) -> None:
        for _ in range(2):
            if self._is_closed:
                raise ServeError(Code.UNAVAILABLE, "the server is shutting down", retry_after_s=1.0)
            self.start()
            assert self._control is not None  # noqa: S101  it has been started
            try:
                socket.send_fds(self._control, [datagram], fds)
            except OSError:
                _log.error("the process that decodes is gone: another is started")
                self._kill()
            else:
                return
        raise _Lost("none can be started")

    def _kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
        self._end()

    def _end(self) -> None:
        worker, control = self._worker, self._control
        self._worker = self._control = None
        if worker is None or control is None:
            return
        control.close()  # whoever decodes is killed, then it ends
        try:
            worker.wait(_END_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


@contextmanager
def _file(name: str) -> Iterator[int]:
    """A file in memory without a path, for as long as the context and its holders last."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        yield fd
    finally:
        os.close(fd)


async def _write(fd: int, data: bytes) -> None:
    """In pieces, with the loop free in between."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest[:_PIECE_BYTES]) :]
        await asyncio.sleep(0)


def _mapped(fd: int, shapes: list[tuple[int, int]]) -> list[Pixels]:
    """The frames in a file, which nobody can change from now on. Raises _Lost where they are not
    what was said."""
    sizes = [height * width * 3 for height, width in shapes]
    if not sizes or min(sizes) <= 0 or sum(sizes) != os.fstat(fd).st_size:
        raise _Lost("other pixels than it said")
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:  # somebody can still write to it
        raise _Lost("pixels that may change") from None
    everything = np.frombuffer(
        mmap.mmap(fd, sum(sizes), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ), np.uint8
    )
    ends = np.cumsum(sizes)[:-1]
    return [
        part.reshape(height, width, 3)
        for part, (height, width) in zip(np.split(everything, ends), shapes, strict=True)
    ]


def _name(number: int) -> str:
    return signal.Signals(number).name if number else "an error"


def _failed() -> ServeError:
    return ServeError(Code.INTERNAL, "the request failed")
