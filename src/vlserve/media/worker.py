"""The process that makes those which decode: python -m vlserve.media.worker, kept warm.

It never reads a picture itself. It forks a process for each socket that the front sends, kills it
when the front closes that socket, and says on it of what the process died. One that decodes has so
much memory, for each picture so much time, and while it decodes can open no file and no socket.
"""

import contextlib
import gc
import io
import math
import mmap
import os
import resource
import select
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from PIL import Image as Pillow

from vlserve.media import picture, video
from vlserve.media.errors import Refused
from vlserve.media.reader import Data
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
    bounds,
    encoded,
    task,
)
from vlserve.processes import connect_to_front

_NICENESS: Final = 5  # running answers come first
_PAGE_BYTES: Final = resource.getpagesize()
_MAX_FILES: Final = 64


@dataclass(slots=True, eq=False)
class _Child:
    """A process that decodes. `channel` is another hold on its socket."""

    pid: int
    pidfd: int
    channel: socket.socket

    def kill(self) -> None:
        """The pid may be another's by now, the descriptor is never."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class Worker:
    """Forks, kills and reaps until the front closes `control`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._children: dict[int, _Child] = {}  # by both descriptors

    def run(self) -> None:
        """Returns when the front is gone and nobody is left."""
        while True:
            for fd, _ in self._poll.poll():
                child = self._children.get(fd)
                if fd == self._control.fileno():
                    if not self._start():
                        self._kill_all()
                        return
                elif child is not None and fd == child.pidfd:
                    self._reap(child)
                elif child is not None:  # the front has closed the channel
                    self._poll.unregister(fd)
                    child.kill()

    def _start(self) -> bool:
        datagram, fds, _, _ = socket.recv_fds(self._control, MAX_BYTES, 1)
        if not datagram:
            return False
        channel = socket.socket(fileno=fds[0])
        try:
            pid = os.fork()
        except OSError:  # the front sees that nobody is there
            channel.close()
            return True
        if pid == 0:
            self._become(channel, bounds(datagram))
        child = _Child(pid, os.pidfd_open(pid), channel)
        for fd, events in ((child.pidfd, select.POLLIN), (channel.fileno(), 0)):
            self._children[fd] = child
            self._poll.register(fd, events)
        return True

    def _become(self, channel: socket.socket, limits: Bounds) -> NoReturn:
        status = 1
        try:
            for fd in {self._control.fileno(), *self._children}:
                os.close(fd)  # one that decodes knows no other
            confine(limits)
            channel.send(encoded(Ready()))
            decode(channel, limits)
            status = 0
        finally:
            os._exit(status)

    def _reap(self, child: _Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        for fd in (child.pidfd, child.channel.fileno()):
            del self._children[fd]
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        with contextlib.suppress(OSError):  # nobody waits for it
            child.channel.send(encoded(Died(number)))
        child.channel.close()
        os.close(child.pidfd)

    def _kill_all(self) -> None:
        for child in {child.pid: child for child in self._children.values()}.values():
            child.kill()
            os.waitpid(child.pid, 0)


def confine(limits: Bounds) -> None:
    """From here on this process has so much memory, by the kernel."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE_BYTES
    # What a library says as it dies is not for the server's log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def decode(channel: socket.socket, limits: Bounds) -> None:
    """Answer what comes over the channel until the front closes it."""
    while True:
        open_files(_MAX_FILES)
        datagram, fds, _, _ = socket.recv_fds(channel, MAX_BYTES, 2)
        if not datagram:
            return
        source, pixels = fds
        what = task(datagram)
        header = _mapped(source) if what.only_size else None
        open_files(0)
        # The front ends this process in time. By the kernel it ends where the front cannot.
        signal.setitimer(signal.ITIMER_REAL, limits.clock_s + 1)
        used_s = resource.getrusage(resource.RUSAGE_SELF)
        ends_s = math.ceil(used_s.ru_utime + used_s.ru_stime) + limits.processor_s
        resource.setrlimit(resource.RLIMIT_CPU, (ends_s, resource.RLIM_INFINITY))
        found = _answer(what, source, pixels, header)
        if header is not None:
            header.close()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for fd in fds:
            os.close(fd)
        channel.send(encoded(found))


def open_files(num: int) -> None:
    """How many files this process may have open, for the libraries that it runs."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (num, _MAX_FILES))


def rehearse() -> None:
    """Decode a picture of each format: what a library loads late could not be opened then."""
    for kind in picture.FORMATS:
        file = io.BytesIO()
        Pillow.new("RGB", (1, 1)).save(file, kind)
        picture.decode(file.getvalue(), 1)
    video.rehearse()


def _answer(what: Task, source: int, pixels: int, header: mmap.mmap | None) -> Answer:
    try:
        if what.only_size:
            return Size(_num_pixels(what, _read(source) if header is None else header))
        shapes = []
        for frame in _frames(what, _read(source)):
            _write(pixels, frame.data.cast("B"))
            shapes.append((frame.shape[0], frame.shape[1]))
        return Decoded(shapes)
    except Refused as refused:
        return Refusal(str(refused), refused.bound)
    except MemoryError:
        return Refusal(TOO_MUCH_MEMORY)


def _num_pixels(what: Task, data: Data) -> int:
    if what.max_frames:
        return video.num_pixels(data, what.max_frames, what.max_pixels)
    return picture.num_pixels(data, what.max_pixels)


def _mapped(source: int) -> mmap.mmap | None:
    """The file, of which no more is read than its header takes. None where it does not fit into
    this process's memory. It takes a descriptor of its own, so it comes before `open_files(0)`."""
    try:
        return mmap.mmap(source, 0, prot=mmap.PROT_READ)
    except OSError:
        return None


def _frames(what: Task, data: bytes) -> Iterator[picture.Pixels]:
    if what.max_frames:
        yield from video.frames(data, what.max_frames, what.max_pixels)
    else:
        yield picture.decode(data, what.max_pixels)


def _read(source: int) -> bytes:
    with open(source, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def main() -> None:
    """Work until the front ends it."""
    control = connect_to_front()
    rehearse()
    gc.collect()
    gc.freeze()  # what is here stays: a collection in a child would only copy it
    Worker(control).run()


if __name__ == "__main__":
    main()
