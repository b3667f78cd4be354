"""The processes that decode, seen from the front: asked, waited for, and what they died of."""

import asyncio
import logging
import mmap
import os
import signal
import socket
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vlserve.errors import failed, stopping
from vlserve.media.errors import Refused
from vlserve.media.files import Kept, file, seal, write_sealed
from vlserve.media.wire import (
    MAX_BYTES,
    TOO_MUCH_MEMORY,
    Answer,
    Bounds,
    Decoded,
    Died,
    Ready,
    Refusal,
    Size,
    Task,
    answer,
    encoded,
)
from vlserve.processes import Process
from vlserve.settings import MIB

WORKER: Final = "vlserve.media.worker"
# Times that a picture is tried whose process somebody kills, and one whose process is gone without
# a word: an idle one and a new one may both be made by a worker that is dying, the next one is not.
MAX_TRIES: Final = 2
MAX_LOST: Final = 3
# Pictures that a process decodes before another takes its place: what leaks, leaks so often.
MAX_USES: Final = 100
# For a new process to say its first word, in s: the one that makes it may only start itself.
START_S: Final = 20.0
TOO_LONG: Final = "takes too long to decode"
_TOO_MUCH: Final = Refusal(TOO_MUCH_MEMORY)
# What is written and waits to be decoded: descriptors, of which a process has not many, and memory.
MAX_KEPT: Final = 256
MAX_KEPT_BYTES: Final = 2**28
# What is larger is mapped, which costs a descriptor for as long as somebody holds it.
_COPIED_BYTES: Final = 2**22
_END_S: Final = 2.0
_log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]


class _Lost(Exception):  # noqa: N818  not an error of ours: a process is gone
    """The process was gone before it answered, by no fault of the picture that is known."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What is to be decoded: a tenant's bytes, as a video's frames where `max_frames` is above 0,
    each of at most `max_pixels` pixels."""

    data: bytes
    max_pixels: int
    max_frames: int = 0
    tenant: str = ""


@dataclass(slots=True, eq=False)
class _Process:
    """One that decodes, at the other end of `channel`, and for whom it did so last."""

    channel: socket.socket
    tenant: str | None = None
    num_uses: int = 0

    def is_there(self) -> bool:
        """Whether it has not said that it ended. What is new may have said its first word."""
        try:
            self.channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return self.num_uses == 0


class Decoders:
    """Processes that decode, `num` at a time, each a picture after the other and within `bounds`.

    One decodes for one tenant alone, and not for ever: nothing of a picture is left for others.
    """

    def __init__(self, num: int, bounds: Bounds) -> None:
        self._num = num
        self._bounds = bounds
        self._places = asyncio.Semaphore(num)
        self._idle: list[_Process] = []
        self._worker: Process | None = None
        self._is_closed = False
        # Of those whose header was read, until they are decoded: to be written once.
        self._kept = Kept(MAX_KEPT, MAX_KEPT_BYTES)

    @property
    def pid(self) -> int | None:
        """The number of the process that makes the others, None while there is none."""
        return self._worker.pid if self._worker else None

    def start(self) -> None:
        """Start all processes, where there are none. Does not wait for them."""
        if self._worker is None:
            self._start_worker()
            self._idle += [self._make() for _ in range(self._num)]

    def close(self) -> None:
        """End all processes. Whoever waits for one, which nobody should, is told UNAVAILABLE."""
        self._is_closed = True
        self._kept.clear()
        self._end()

    async def num_pixels(self, what: Encoded) -> int:
        """The pixels of all frames, by the header alone. What is here is kept for `frames`, until
        then or until `forget`. Raises as `frames` does."""
        async with self._places:
            source = await write_sealed("encoded", what.data)
            try:
                found = await self._answer(what, source, only_size=True)
                if not isinstance(found, Size):
                    raise failed()
            except BaseException:
                os.close(source)
                raise
            self._kept.keep(what, source)
        return found.num_pixels

    def forget(self, what: Encoded) -> None:
        """Nobody asks for its frames any more."""
        self._kept.drop(what)

    async def frames(self, what: Encoded) -> list[Pixels]:
        """The decoded frames, one of a picture: uint8[height, width, 3] each, read-only.

        Raises Refused for what is not taken, and for what takes too much time or memory or ends
        its process; ServeError(INTERNAL) where no process could decode it.
        """
        async with self._places:
            source = self._kept.take(what)
            if source is None:
                source = await write_sealed("encoded", what.data)
            try:
                found = await self._answer(what, source, only_size=False)
            finally:
                os.close(source)
        if not isinstance(found, list):
            raise failed()
        return found

    async def _answer(
        self, what: Encoded, source: int, *, only_size: bool
    ) -> Ready | Size | list[Pixels]:
        num_killed = num_lost = 0
        while num_killed < MAX_TRIES and num_lost < MAX_LOST:
            process = self._take(what.tenant)
            is_kept = False
            try:
                found = await self._try(process, what, source, only_size=only_size)
                is_kept = not isinstance(found, Died) and found != _TOO_MUCH
            except _Lost as lost:
                _log.warning("a process that decodes is gone: %s", lost)
                num_lost += 1
                self._drop_idle()  # the worker that made them may be gone as well
                continue
            finally:
                self._give_back(process, is_kept=is_kept)
            match found:
                case Refusal(reason, bound):
                    raise self._too_much_memory() if found == _TOO_MUCH else Refused(reason, bound)
                case Died(signal.SIGXCPU):
                    raise self._too_long("decode_cpu_s", self._bounds.processor_s)
                case Died(signal.SIGALRM):
                    raise self._too_long("decode_s", self._bounds.clock_s)
                case Died(number):
                    num_killed += 1
                    _log.error("a picture's process died of %s", _name(number))
                    # Who kills is not known: the kernel out of memory, or somebody else.
                    if number != signal.SIGKILL:
                        break
                case _:
                    return found
        if not num_killed:
            raise failed()
        raise Refused("ends the process that decodes it: encode it anew")

    async def _try(
        self, process: _Process, what: Encoded, source: int, *, only_size: bool
    ) -> Ready | Size | list[Pixels] | Refusal | Died:
        if process.num_uses == 0:
            await self._await_ready(process)
        task = encoded(Task(what.max_frames, what.max_pixels, only_size))
        with file("pixels") as pixels:
            try:
                socket.send_fds(process.channel, [task], [source, pixels])
            except OSError:
                raise _Lost("it was gone before") from None
            try:
                found = await _receive(process, self._bounds.clock_s)
            except TimeoutError:
                raise self._too_long("decode_s", self._bounds.clock_s) from None
            return _pixels_of(pixels, found.shapes) if isinstance(found, Decoded) else found

    def _too_long(self, setting: str, max_s: float) -> Refused:
        clock = "" if setting == "decode_s" else " of a processor"
        return Refused(f"{TOO_LONG}: more than {max_s:g} s{clock}", f"media.{setting}")

    def _too_much_memory(self) -> Refused:
        mib = self._bounds.memory_bytes // MIB
        return Refused(f"{TOO_MUCH_MEMORY}: more than {mib} MiB", "media.decode_mib")

    async def _await_ready(self, process: _Process) -> None:
        """Wait for a new process's first word."""
        try:
            if isinstance(await _receive(process, START_S), Ready):
                return
        except TimeoutError:
            self._end()  # who should make processes is of no use
        raise _Lost("it did not start")

    def _take(self, tenant: str) -> _Process:
        """A process for a tenant: its own, one that is fresh, or a new one."""
        process = None
        while process is None:
            fit = [each for each in self._idle if each.tenant in (None, tenant)]
            if not fit:
                process = self._make()
                break
            last = max(fit, key=lambda each: each.tenant is not None)
            self._idle.remove(last)
            if last.is_there():
                process = last
            else:
                last.channel.close()
        process.tenant = tenant
        return process

    def _give_back(self, process: _Process, *, is_kept: bool) -> None:
        """Where it is not kept its channel closes, and by that it ends."""
        process.num_uses += 1
        if is_kept and process.num_uses < MAX_USES and not self._is_closed:
            self._idle.append(process)
            process = self._idle[0]
            if len(self._idle) <= self._num:
                return
            self._idle.remove(process)
        process.channel.close()

    def _make(self) -> _Process:
        """A new process. Raises ServeError(UNAVAILABLE) once closed."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            if self._is_closed:
                ours.close()
                raise stopping()
            for _ in range(2):
                worker = self._worker or self._start_worker()
                try:
                    socket.send_fds(worker.socket, [encoded(self._bounds)], [theirs.fileno()])
                    break
                except OSError:
                    _log.error("the process that makes others is gone: a new one is started")
                    self._kill()
        return _Process(ours)

    def _start_worker(self) -> Process:
        self._worker = Process(WORKER, socket.SOCK_SEQPACKET)
        return self._worker

    def _drop_idle(self) -> None:
        for process in self._idle:
            process.channel.close()
        self._idle.clear()

    def _kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
        self._end()

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        self._drop_idle()
        if worker is None:
            return
        worker.socket.close()  # whoever decodes is killed, then it ends
        if worker.reap(_END_S) is None:
            worker.kill()
            worker.reap(None)


async def _receive(process: _Process, within_s: float) -> Answer:
    """What it says. Raises TimeoutError, and _Lost for no word."""
    try:
        async with asyncio.timeout(within_s):
            datagram = await asyncio.get_running_loop().sock_recv(process.channel, MAX_BYTES)
    except TimeoutError:
        raise
    except OSError:
        raise _Lost("it was gone before") from None
    try:
        return answer(datagram)
    except ValueError:
        raise _Lost("no word" if datagram else "there was none") from None


def _pixels_of(fd: int, shapes: list[tuple[int, int]]) -> list[Pixels]:
    """The frames in a file. Raises _Lost where they are not what was said."""
    sizes = [height * width * 3 for height, width in shapes]
    if not sizes or min(sizes) <= 0 or sum(sizes) != os.fstat(fd).st_size:
        raise _Lost("other pixels than it said")
    if sum(sizes) <= _COPIED_BYTES:
        everything = np.frombuffer(os.pread(fd, sum(sizes), 0), np.uint8)
    else:
        everything = np.frombuffer(_sealed(fd), np.uint8)
    ends = np.cumsum(sizes)[:-1]
    return [
        part.reshape(height, width, 3)
        for part, (height, width) in zip(np.split(everything, ends), shapes, strict=True)
    ]


def _sealed(fd: int) -> mmap.mmap:
    """A file's content, which nobody can change from now on. It keeps a descriptor."""
    try:
        seal(fd)
    except OSError:  # somebody can still write to it
        raise _Lost("pixels that may change") from None
    return mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)


def _name(number: int) -> str:
    return signal.Signals(number).name if number else "an error"
