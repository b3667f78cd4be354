"""A bound on what many requests hold together: those beyond it wait, in order of arrival."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Share:
    """A part of a budget that is held until it is given back, once or more often."""

    def __init__(self, budget: "Budget", amount: int) -> None:
        self._budget = budget
        self._amount = amount

    def give_back(self) -> None:
        """Others may have it. Nothing the second time."""
        self._budget.give_back(self._amount)
        self._amount = 0


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

    def give_back(self, amount: int) -> None:
        """Let whoever waits go on."""
        self._num_left += amount
        while self._waiting and self._waiting[0][0] <= self._num_left:
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._num_left -= wanted
                turn.set_result(None)

    async def _take(self, amount: int) -> None:
        if not self._waiting and amount <= self._num_left:
            self._num_left -= amount
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled in the moment in which it was given.
            if turn.done() and not turn.cancelled():
                self.give_back(amount)
            else:
                self._waiting.remove((amount, turn))
                self.give_back(0)
            raise
