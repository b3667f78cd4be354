"""The process that decodes: python -m vlserve.media.worker, kept warm by the front.

It never reads a picture itself. For each task it forks a process, which decodes one picture and
ends. That one may use so much memory and time, and can open no file and no socket: what it needs
is open. Whoever is late or asked for by nobody any more is killed; of what each died is told.
"""

import contextlib
import gc
import io
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from PIL import Image as Pillow

from vlserve.media import picture, video
from vlserve.media.errors import Refused
from vlserve.media.wire import (
    MAX_BYTES,
    Answer,
    Bounds,
    Decoded,
    Died,
    Refusal,
    Size,
    Task,
    encoded,
    task,
)

TOO_MUCH_MEMORY: Final = "takes too much memory to decode"
_LATE_SIGNALS: Final = (signal.SIGXCPU, signal.SIGALRM)
_NICENESS: Final = 5  # running answers come first
_PAGE_BYTES: Final = resource.getpagesize()


@dataclass(slots=True, eq=False)
class _Child:
    """A process that decodes. `answers` is another hold on the socket that its answer goes to."""

    pid: int
    pidfd: int
    answers: socket.socket
    ends_s: float
    is_late: bool = False

    def kill(self) -> None:
        """The pid may be another's by now, the descriptor is never."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class Worker:
    """Forks, watches and buries until the front closes `control`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._children: dict[int, _Child] = {}  # by both descriptors

    def run(self) -> None:
        """Returns when the front is gone and nobody is left."""
        while True:
            for fd, _ in self._poll.poll(self._patience_ms()):
                child = self._children.get(fd)
                if fd == self._control.fileno():
                    if not self._start():
                        self._kill_all()
                        return
                elif child is not None and fd == child.pidfd:
                    self._bury(child)
                elif child is not None:  # nobody waits for its answer
                    self._poll.unregister(fd)
                    child.kill()
            now = time.monotonic()
            for child in self._children.values():
                if now >= child.ends_s and not child.is_late:
                    child.is_late = True
                    child.kill()

    def _patience_ms(self) -> float | None:
        ends_s = [child.ends_s for child in self._children.values() if not child.is_late]
        return max(0.0, min(ends_s) - time.monotonic()) * 1000 + 1 if ends_s else None

    def _start(self) -> bool:
        datagram, fds, _, _ = socket.recv_fds(self._control, MAX_BYTES, 3)
        if not datagram:
            return False
        what = task(datagram)
        answers, source, pixels = socket.socket(fileno=fds[0]), fds[1], fds[2]
        try:
            pid = os.fork()
        except OSError:  # it stays without an answer, and the front says so
            answers.close()
        else:
            if pid == 0:
                self._decode(what, answers, source, pixels)
            child = _Child(pid, os.pidfd_open(pid), answers, time.monotonic() + what.bounds.clock_s)
            for fd, events in ((child.pidfd, select.POLLIN), (answers.fileno(), 0)):
                self._children[fd] = child
                self._poll.register(fd, events)
        os.close(source)
        os.close(pixels)
        return True

    def _decode(self, what: Task, answers: socket.socket, source: int, pixels: int) -> NoReturn:
        status = 1
        try:
            kept = {0, 1, 2, answers.fileno(), source, pixels}
            for fd in {self._control.fileno(), *self._children} - kept:
                os.close(fd)  # a picture's process knows no other's
            data = _read(source)
            confine(what.bounds)
            answers.send(encoded(_answer(what, data, pixels)))
            status = 0
        finally:
            os._exit(status)

    def _bury(self, child: _Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        for fd in (child.pidfd, child.answers.fileno()):
            del self._children[fd]
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)
        if status:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            died = Died(number, child.is_late or number in _LATE_SIGNALS)
            with contextlib.suppress(OSError):  # nobody waits for it
                child.answers.send(encoded(died))
        child.answers.close()
        os.close(child.pidfd)

    def _kill_all(self) -> None:
        for child in {id(child): child for child in self._children.values()}.values():
            child.kill()
            os.waitpid(child.pid, 0)


def confine(bounds: Bounds) -> None:
    """From here on this process has so much memory and time, by the kernel, and opens nothing."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE_BYTES
    # What a library says as it dies is not for the server's log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.nice(_NICENESS)
    # It is killed at that time by its parent, and by this where the parent is gone.
    signal.setitimer(signal.ITIMER_REAL, bounds.clock_s + 1)
    for kind, limit in (
        (resource.RLIMIT_CPU, bounds.processor_s),
        (resource.RLIMIT_AS, used + bounds.memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(kind, (limit, limit + 1 if kind == resource.RLIMIT_CPU else limit))


def rehearse() -> None:
    """Decode a picture of each format: what a library loads late could not be opened then."""
    for kind in picture.FORMATS:
        file = io.BytesIO()
        Pillow.new("RGB", (1, 1)).save(file, kind)
        picture.decoded(file.getvalue(), 1)
    video.rehearse()


def _answer(what: Task, data: bytes, pixels: int) -> Answer:
    try:
        if what.only_size:
            if what.max_frames:
                return Size(video.num_pixels(data, what.max_frames, what.max_pixels))
            return Size(picture.num_pixels(data, what.max_pixels))
        shapes = []
        for frame in _frames(what, data):
            _write(pixels, memoryview(frame).cast("B"))
            shapes.append((frame.shape[0], frame.shape[1]))
        return Decoded(shapes)
    except Refused as refused:
        return Refusal(str(refused))
    except MemoryError:
        return Refusal(TOO_MUCH_MEMORY)


def _frames(what: Task, data: bytes) -> Iterator[picture.Pixels]:
    if what.max_frames:
        yield from video.frames(data, what.max_frames, what.max_pixels)
    else:
        yield picture.decoded(data, what.max_pixels)


def _read(source: int) -> bytes:
    with open(source, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def main() -> None:
    """Work until the front ends it."""
    # Signals for the whole group are the front's affair: it still drains while this one runs.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    rehearse()
    gc.collect()
    gc.freeze()  # what is here stays: a collection in a child would only copy it
    Worker(control).run()


if __name__ == "__main__":
    main()
