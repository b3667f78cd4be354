"""hypercorn's HTTP/1.1, mended where a second request comes before the first is answered.

hypercorn 0.18 reads no further then, and so does not see that the caller hangs up: the work goes on
for nobody until its end. Here the first answer closes the connection, as HTTP/1.1 allows, and what
was sent ahead is dropped: callers that pipeline ask again, and there are next to none.
"""

from typing import Any

import h11
from hypercorn import protocol
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol


class SingleH11Protocol(H11Protocol):
    """One request at a time, with an eye on whether the caller is still there."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.can_read = _Turn(self, self.can_read)
        self._is_ahead = False

    async def handle(self, event: Event) -> None:
        """What the connection has to say."""
        if not (self._is_ahead and isinstance(event, RawData)):
            await super().handle(event)

    async def _handle_events(self) -> None:
        try:
            await super()._handle_events()
        except _AheadError:
            # h11 pauses as well after a request that offers another protocol, as the JDK's client
            # does with each: there nothing came.
            if self.connection.trailing_data[0]:
                self._is_ahead = True
                # As hypercorn counts it this was the last request: where the answer has not begun,
                # it says that it closes the connection.
                self.keep_alive_requests = self.config.keep_alive_max_requests

    async def _maybe_recycle(self) -> None:
        if self._is_ahead:
            await self._close_stream()
            await self.send(Closed())
        else:
            await super()._maybe_recycle()


class _AheadError(Exception):
    """No more is read before the request is answered."""


class _Turn:
    """hypercorn's event that the next request may be read. Who waits for it reads nothing: that is
    right for the moment after an answer alone."""

    def __init__(self, spoken: H11Protocol, event: Any) -> None:
        self._spoken = spoken
        self.set = event.set
        self.clear = event.clear
        self.is_set = event.is_set
        self._wait = event.wait

    async def wait(self) -> None:
        if self._spoken.connection.our_state is not h11.DONE:
            raise _AheadError
        await self._wait()


def mend() -> None:
    """For all connections from now on. hypercorn has no setting for whose protocol it speaks."""
    setattr(protocol, "H11Protocol", SingleH11Protocol)  # noqa: B010  it exports no such name
