"""Processes of our own: started, told apart from ours, ended and reaped. What is said over their
socket is each room's own: `engines/wire.py`, `media/wire.py`, `native/text/guide_worker.py`."""

import signal
import socket
import subprocess
import sys
from typing import Final

_FD: Final = 1  # which argument is the socket's descriptor


class Process:
    """A process that runs the module `module`, at the other end of `socket`.

    Its arguments are the descriptor of that end and `arguments`. It inherits that end and stderr,
    to which what it prints goes as well. It is in a session of its own: a terminal's signals reach
    the front alone. Raises OSError where none can be started.
    """

    def __init__(
        self,
        module: str,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.socket.setblocking(False)
        with theirs:
            try:
                self._popen = subprocess.Popen(  # noqa: S603  our own module
                    [sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    start_new_session=True,
                )
            except OSError:
                self.socket.close()
                raise

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    def kill(self) -> None:
        """Kill it, where it has not ended."""
        self._popen.kill()

    def reap(self, within_s: float | None) -> str | None:
        """What it died of, once it has; None where it is still there after `within_s`. Blocks."""
        try:
            status = self._popen.wait(within_s)
        except subprocess.TimeoutExpired:
            return None
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def connect_to_front() -> socket.socket:
    """In a process that was started as above: its end of the socket, which no process that it
    starts inherits. The front's end closes with the front, and then this process ends.

    Signals for the whole group are the front's affair: it still drains while this one runs.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[_FD]))
    connection.set_inheritable(False)
    return connection
