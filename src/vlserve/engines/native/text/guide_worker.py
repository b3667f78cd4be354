"""Tries grammars where a bad one can be killed, as `python -m` with this module's name.

JSON lines on its socket. The first is the vocabulary; each that follows a grammar with an id,
answered in any order with the id and the reason for refusing it, "" for none. Each grammar is
tried in a process forked for it alone, which the kernel ends after MAX_S or at MAX_BYTES more.
"""

import json
import os
import resource
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from llguidance import LLTokenizer

from vlserve.engines.native.text.grammar import trial, trie
from vlserve.processes import connect_to_front

MAX_S: Final = 1.5
MAX_BYTES: Final = 512 << 20
TOO_EXPENSIVE: Final = "is too expensive"


class Worker:
    """The process that forks: it only ever reads, forks and reaps."""

    def __init__(self, connection: socket.socket, vocabulary: LLTokenizer) -> None:
        self._connection = connection
        self._vocabulary = vocabulary
        self._running: dict[int, int] = {}  # the id of the grammar that each process tries

    def start(self, number: int, grammar: str) -> None:
        """Fork a process that tries a grammar."""
        # A process that ended before it was written down would never be found.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            _try(self._connection, self._vocabulary, number, grammar)
        self._running[pid] = number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def reap(self, *_: object) -> None:
        """Answer for those that ended without a word. May interrupt itself."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                number = self._running.pop(ended[0])
                if ended[1] != 0:
                    _answer(self._connection, number, TOO_EXPENSIVE)


def bound(max_s: float, max_bytes: int) -> None:
    """The kernel ends this process after `max_s`, and gives it at most `max_bytes` more."""
    signal.setitimer(signal.ITIMER_REAL, max_s)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + max_bytes, used + max_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _try(connection: socket.socket, vocabulary: LLTokenizer, number: int, grammar: str) -> None:
    status = 1
    try:
        bound(MAX_S, MAX_BYTES)
        os.nice(5)  # running answers come first
        # What a library says as it dies is not for the server's log.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _answer(connection, number, trial(vocabulary, grammar))
        status = 0
    finally:
        os._exit(status)


def _answer(connection: socket.socket, number: int, reason: str) -> None:
    # Short enough for the kernel to write in one piece, whoever else writes.
    os.write(connection.fileno(), json.dumps([number, reason]).encode() + b"\n")


def main() -> None:
    """Serve until the front closes the socket."""
    connection = connect_to_front()
    with connection.makefile("rb") as lines:
        worker = Worker(connection, trie(*json.loads(lines.readline())))
        signal.signal(signal.SIGCHLD, worker.reap)
        for line in lines:
            worker.start(*json.loads(line))


if __name__ == "__main__":
    main()
