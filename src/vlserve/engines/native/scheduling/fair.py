"""Fair scheduling between tenants: the tenant with the lowest counter is served first.

The counters follow Y. Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): each
tenant is charged for its work, and a tenant that returns after a pause starts at the lowest
counter of the active tenants, so that nobody saves up credit.
"""

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A queue of items by tenant; within a tenant first in, first out. Imports no torch."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Item]] = {}
        self._charged: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def items(self) -> list[Item]:
        """All waiting items."""
        return [item for items in self._waiting.values() for item in items]

    def put(self, tenant: str, item: Item) -> None:
        """Append to the tenant's queue."""
        self._queue(tenant).append(item)

    def put_front(self, tenant: str, item: Item) -> None:
        """Prepend to the tenant's queue, for an item that was preempted."""
        self._queue(tenant).appendleft(item)

    def peek(self) -> Item | None:
        """The item that `pop` would return; None when the queue is empty."""
        return self._waiting[self._next()][0] if self._waiting else None

    def pop(self) -> Item:
        """Remove and return the oldest item of the tenant with the lowest counter.

        Raises IndexError when the queue is empty.
        """
        if not self._waiting:
            raise IndexError("the queue is empty")
        tenant = self._next()
        item = self._waiting[tenant].popleft()
        self._drop_empty(tenant)
        return item

    def remove(self, tenant: str, item: Item) -> None:
        """Remove an item. Does nothing for an item that is not in the queue."""
        if item in self._waiting.get(tenant, ()):
            self._waiting[tenant].remove(item)
            self._drop_empty(tenant)

    def charge(self, tenant: str, cost: float) -> None:
        """Add the cost of work to the counter of a tenant."""
        self._charged[tenant] = self.charged(tenant) + cost

    def charged(self, tenant: str) -> float:
        """The counter of a tenant; 0 for an unknown one."""
        return self._charged.get(tenant, 0.0)

    def forget(self, active_tenants: set[str]) -> None:
        """Delete the counters of tenants without waiting or running items."""
        for tenant in self._charged.keys() - self._waiting.keys() - active_tenants:
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
