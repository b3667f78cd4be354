"""How many picture features requests hold: those beyond the budget wait before the tower."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

Sizes = Mapping[str, int]
_Turn = asyncio.Future[None]


class FeatureBudget:
    """Features of `num_tokens` picture tokens at most, first come first served.

    Features that several requests of a tenant hold count once. A request that wants more than
    the budget gets it when nobody else holds any. Used by one event loop.
    """

    def __init__(self, num_tokens: int) -> None:
        self.num_left = num_tokens
        self._holders: Counter[tuple[str, str]] = Counter()
        self._waiting: deque[tuple[str, Sizes, _Turn]] = deque()

    @asynccontextmanager
    async def hold(self, tenant: str, sizes: Sizes) -> AsyncIterator[None]:
        """Hold the features of pictures for as long as the context lasts, after those who came
        before. `sizes` are their tokens, by a name of the features."""
        if not sizes:
            yield  # a request without pictures waits for nobody
            return
        await self._take(tenant, sizes)
        try:
            yield
        finally:
            self._give_back(tenant, sizes)

    async def _take(self, tenant: str, sizes: Sizes) -> None:
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._waiting.append((tenant, sizes, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(tenant, sizes)
            elif (tenant, sizes, turn) in self._waiting:
                # It may have stood before others that fit.
                self._waiting.remove((tenant, sizes, turn))
                self._serve()
            raise

    def _serve(self) -> None:
        """Those whose turn has come, in order, as far as the budget goes."""
        while self._waiting:
            tenant, sizes, turn = self._waiting[0]
            names = [(tenant, key) for key in sizes]
            wanted = sum(sizes[key] for _, key in names if not self._holders[tenant, key])
            if wanted > self.num_left and self._holders.total():
                return
            self._waiting.popleft()
            if turn.done():
                continue
            self.num_left -= wanted
            self._holders.update(names)
            turn.set_result(None)

    def _give_back(self, tenant: str, sizes: Sizes) -> None:
        for key, size in sizes.items():
            self._holders[tenant, key] -= 1
            if not self._holders[tenant, key]:
                del self._holders[tenant, key]
                self.num_left += size
        self._serve()
