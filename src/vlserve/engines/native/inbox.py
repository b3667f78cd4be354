"""Messages to the step thread: new requests, callers who disconnect, a lost device."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from vlserve.engines.base import RETRY_S
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.errors import Code, ServeError


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Nobody reads the answer of this sequence any more."""

    sequence: Sequence


@dataclass(frozen=True, slots=True)
class Fault:
    """The device is lost, as the vision tower found."""

    error: Exception


Message = Sequence | Disconnect | Fault


class Inbox:
    """Messages for the step thread, until it is closed. Each sequence that was put in is either
    taken out or `left`."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False

    def __len__(self) -> int:
        return self._messages.qsize()

    def put(self, sequence: Sequence) -> None:
        """Hand a sequence over. Raises ServeError(UNAVAILABLE) once the engine is closed."""
        with self._lock:
            self.refuse_if_closed()
            self._messages.put(sequence)

    def disconnect(self, sequence: Sequence) -> None:
        """Drop a sequence before the next step."""
        self._messages.put(Disconnect(sequence))

    def fail(self, error: Exception) -> None:
        """End the step thread with an error."""
        self._messages.put(Fault(error))

    def take(self, *, wait: bool) -> Iterator[Message]:
        """All messages there are, after one at least where the caller is to `wait`; none once the
        engine is closed."""
        while not self._is_closed and (wait or not self._messages.empty()):
            message = self._messages.get()
            wait = False
            if message is not None:
                yield message

    def refuse_if_closed(self) -> None:
        """Raises ServeError(UNAVAILABLE) once the engine is closed."""
        if self._is_closed:
            raise unavailable()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is taken in."""
        return self._is_closed

    def close(self) -> None:
        """Take nothing more in, and wake the step thread."""
        with self._lock:
            self._is_closed = True
        self._messages.put(None)

    def left(self) -> list[Sequence]:
        """The sequences that nobody took out before it was closed."""
        messages = []
        while not self._messages.empty():
            messages.append(self._messages.get())
        return [message for message in messages if isinstance(message, Sequence)]


def unavailable() -> ServeError:
    """What those are told whom an engine that has ended does not answer."""
    message = "the engine has ended: ask again when it has started"
    return ServeError(Code.UNAVAILABLE, message, retry_after_s=RETRY_S)
