"""Bounds on what many requests hold together: those beyond one wait, in order of arrival, or are
refused."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from vlserve.errors import Code, ServeError

_RETRY_S: Final = 1.0  # nobody knows how long those who hold it still take


class Share:
    """A part of a budget that is held until it is given back, once or more often."""

    def __init__(self, budget: "Budget", amount: int) -> None:
        self._budget = budget
        self._amount = amount

    def give_back(self) -> None:
        """Others may have it. Nothing the second time."""
        self._budget.give_back(self._amount)
        self._amount = 0


class Claim:
    """A part of a budget that grows while it is held."""

    def __init__(self, budget: "Budget", wanted: str) -> None:
        self._budget = budget
        self._wanted = wanted
        self.num = 0

    def grow(self, amount: int) -> None:
        """Have `amount` more. Raises ServeError(OVERLOADED) at once where so much is not left."""
        if not self._budget.try_take(amount):
            raise ServeError(Code.OVERLOADED, self._wanted, retry_after_s=_RETRY_S)
        self.num += amount


class Budget:
    """So much in all. Whoever wants more than there ever is gets all of it, alone."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._num_left = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def num_left(self) -> int:
        """What nobody holds."""
        return self._num_left

    @asynccontextmanager
    async def share(self, amount: int) -> AsyncIterator[Share]:
        """A Share, when those who came before have theirs; given back at the end at the latest."""
        amount = min(amount, self._total)
        await self._take(amount)
        share = Share(self, amount)
        try:
            yield share
        finally:
            share.give_back()

    @contextmanager
    def claim(self, wanted: str) -> Iterator[Claim]:
        """A Claim on nothing yet, given back at the end. `wanted` is what is said where it cannot
        grow."""
        claim = Claim(self, wanted)
        try:
            yield claim
        finally:
            self.give_back(claim.num)

    def try_take(self, amount: int) -> bool:
        """Whether so much was left, for nobody who came before: then it is the caller's now."""
        if self._waiting or amount > self._num_left:
            return False
        self._num_left -= amount
        return True

    def give_back(self, amount: int) -> None:
        """Let whoever waits go on."""
        self._num_left += amount
        while self._waiting and self._waiting[0][0] <= self._num_left:
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._num_left -= wanted
                turn.set_result(None)

    async def _take(self, amount: int) -> None:
        if amount == 0 or self.try_take(amount):  # who wants nothing waits for nobody
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled in the moment in which it was given.
            if turn.done() and not turn.cancelled():
                self.give_back(amount)
            elif (amount, turn) in self._waiting:  # nobody's turn came in the same moment
                self._waiting.remove((amount, turn))
                self.give_back(0)
            raise
