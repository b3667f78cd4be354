"""hypercorn's HTTP/2, mended where a connection ends before an answer is sent, and where a sender
goes on after its answer.

In hypercorn 0.18 the task that writes ends with the connection. Whoever sends after that waits for
it to take the bytes, and waits for ever: a task, with the body of its request, for each caller who
hangs up in time. And bytes of a request whose answer is complete, such as one that was too large,
end the connection with a KeyError, and all other calls on it; so does a path beyond ASCII.
"""

from contextlib import suppress

from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived
from h2.events import Event as Heard
from h2.exceptions import StreamClosedError
from hypercorn import protocol
from hypercorn.events import Closed, Event
from hypercorn.protocol.h2 import H2Protocol


class EndingH2Protocol(H2Protocol):
    """Whoever sends on a connection that has ended is let go: nobody reads it. Whoever sends on
    after the answer is told to stop, and nobody else notices."""

    async def handle(self, event: Event) -> None:
        """What the connection has to say."""
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def _handle_events(self, events: list[Heard]) -> None:
        for event in events:
            if isinstance(event, DataReceived) and event.stream_id not in self.streams:
                self._stop(event)
            elif isinstance(event, RequestReceived) and not _is_ascii(event):
                self.connection.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            else:
                await super()._handle_events([event])
        await self._flush()

    def _stop(self, event: DataReceived) -> None:
        # The others on the connection wait for the room that these bytes take.
        self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        with suppress(StreamClosedError):  # told before
            self.connection.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)


def _is_ascii(request: RequestReceived) -> bool:
    """Whether its method and its path are, which hypercorn takes for granted."""
    return all(
        value.isascii() for name, value in request.headers or () if name in (b":method", b":path")
    )


def mend() -> None:
    """For all connections from now on. hypercorn has no setting for whose protocol it speaks."""
    setattr(protocol, "H2Protocol", EndingH2Protocol)  # noqa: B010  it exports no such name
