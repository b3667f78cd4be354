"""hypercorn's HTTP/2, mended where a connection ends before an answer is sent.

In hypercorn 0.18 the task that writes ends with the connection. Whoever sends after that waits for
it to take the bytes, and waits for ever: a task, with the body of its request, for each caller who
hangs up in time.
"""

from hypercorn import protocol
from hypercorn.events import Closed, Event
from hypercorn.protocol.h2 import H2Protocol


class EndingH2Protocol(H2Protocol):
    """Whoever sends on a connection that has ended is let go: nobody reads it."""

    async def handle(self, event: Event) -> None:
        """What the connection has to say."""
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()


def mend() -> None:
    """For all connections from now on. hypercorn has no setting for whose protocol it speaks."""
    protocol.H2Protocol = EndingH2Protocol  # type: ignore[attr-defined]
