"""Admission: who runs, who waits, and when it is worth asking again."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vlserve.errors import Code, ServeError, invalid

MIN_RETRY_S: Final = 0.1


FIRST_DURATION_S: Final = 1.0  # of a request, while none has ended yet


_RECENT: Final = 32


_ROUNDS: Final = 4  # times that all places come free, over which those who were refused spread


_MARGIN: Final = 1.25  # places come free unevenly, and to come in vain costs more than to come late


class Queue:
    """Permits to be inside the service: at most `num_running` + `num_waiting` at a time.

    Who finds no place is told when to come again. Those who were refused are told different
    times, one place apart, so that they do not all come back for the same one. How fast places
    come free is measured only while requests wait, since an idle service says nothing about it;
    until then it is guessed from how long a request takes.
    """

    def __init__(self, num_running: int, num_waiting: int, longest_s: float) -> None:
        self._num_running = num_running
        self._num_places = num_running + num_waiting
        self._longest_s = longest_s
        self._num_inside = 0
        self._intervals_s: deque[float] = deque(maxlen=_RECENT)
        self._durations_s: deque[float] = deque([FIRST_DURATION_S], maxlen=_RECENT)
        self._last_free_s = 0.0
        self._promised_s = 0.0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def num_inside(self) -> int:
        """Permits that are out now."""
        return self._num_inside

    @contextmanager
    def permit(self, num: int = 1) -> Iterator[None]:
        """`num` places for as long as the context lasts. Raises ServeError at once where there
        are not so many: OVERLOADED, or INVALID_ARGUMENT naming `n` where there never will be."""
        if num > self._num_places:
            most = f"must be at most {self._num_places}, not {num}"
            raise invalid("n", f"{most}: so many run or wait (limits.max_waiting)")
        self.expect(num)
        begin_s = asyncio.get_running_loop().time()
        if self._num_inside <= self._num_running < self._num_inside + num:  # the first who waits
            self._last_free_s = begin_s
        self._num_inside += num
        self._empty.clear()
        try:
            yield
        finally:
            self._release(begin_s, num)

    def expect(self, num: int = 1) -> None:
        """Raises ServeError(OVERLOADED) where there are not so many places now; takes none."""
        if self._num_inside + num > self._num_places:
            raise ServeError(
                Code.OVERLOADED,
                f"too many requests are running and waiting: at most {self._num_places} may"
                " (limits.max_waiting)",
                retry_after_s=self._retry_after_s(num),
            )

    async def empty(self) -> None:
        """Returns when nobody is inside."""
        await self._empty.wait()

    def _release(self, begin_s: float, num: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._num_inside > self._num_running:  # somebody waited for these places
            self._intervals_s.append((now - self._last_free_s) / num)
            self._last_free_s = now
        self._durations_s.append(now - begin_s)
        self._num_inside -= num
        if self._num_inside == 0:
            self._empty.set()

    def _retry_after_s(self, num: int) -> float:
        now = asyncio.get_running_loop().time()
        if self._intervals_s:
            interval_s = sum(self._intervals_s) / len(self._intervals_s)
        else:
            interval_s = sum(self._durations_s) / len(self._durations_s) / self._num_running
        interval_s *= _MARGIN
        # So many at most, and no longer than until whoever is inside has timed out. Then from the
        # beginning: one who keeps asking too early must not send all others far away.
        latest = now + min(self._longest_s, _ROUNDS * self._num_places * interval_s)
        promised_s = max(now, self._promised_s) + num * interval_s
        self._promised_s = promised_s if promised_s <= latest else now + num * interval_s
        return min(self._longest_s, max(MIN_RETRY_S, self._promised_s - now))
