"""Whose turn it is: the tenant that was served least goes first.

The counters follow Y. Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): each
tenant is charged what its work costs, and one that comes back after a pause begins at the level
of those that are there, so that nobody saves up turns.
"""

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items wait in order of arrival within their tenant. Knows no torch."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Item]] = {}
        self._charged: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def items(self) -> list[Item]:
        """All that wait."""
        return [item for items in self._waiting.values() for item in items]

    def put(self, tenant: str, item: Item) -> None:
        """Queue behind the tenant's own."""
        self._queue(tenant).append(item)

    def put_first(self, tenant: str, item: Item) -> None:
        """Queue before the tenant's own: it was taken out too early."""
        self._queue(tenant).appendleft(item)

    def peek(self) -> Item | None:
        """What `pop` would give; None where nothing waits."""
        return self._waiting[self._next()][0] if self._waiting else None

    def pop(self) -> Item:
        """The oldest item of the tenant that was charged least. Raises IndexError when empty."""
        if not self._waiting:
            raise IndexError("nothing waits")
        tenant = self._next()
        item = self._waiting[tenant].popleft()
        self._drop_empty(tenant)
        return item

    def remove(self, tenant: str, item: Item) -> None:
        """Take an item out; one that does not wait is no error."""
        if item in self._waiting.get(tenant, ()):
            self._waiting[tenant].remove(item)
            self._drop_empty(tenant)

    def charge(self, tenant: str, cost: float) -> None:
        """Count work that was done for a tenant."""
        self._charged[tenant] = self.charged(tenant) + cost

    def charged(self, tenant: str) -> float:
        """What a tenant was charged, at the level at which it came."""
        return self._charged.get(tenant, 0.0)

    def forget(self, tenants_at_work: set[str]) -> None:
        """Let go of the counters of tenants that neither wait nor are at work."""
        for tenant in self._charged.keys() - self._waiting.keys() - tenants_at_work:
            del self._charged[tenant]

    def _queue(self, tenant: str) -> deque[Item]:
        if tenant not in self._waiting:
            if tenant not in self._charged:
                self._charged[tenant] = min(self._charged.values(), default=0.0)
            self._waiting[tenant] = deque()
        return self._waiting[tenant]

    def _next(self) -> str:
        return min(self._waiting, key=self.charged)

    def _drop_empty(self, tenant: str) -> None:
        if not self._waiting[tenant]:
            del self._waiting[tenant]
