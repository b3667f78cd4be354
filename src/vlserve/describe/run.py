"""Items -> the journal: several at a time, none twice, and what is known not again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from vlserve.describe.journal import Done, Journal


class Item(Protocol):
    """What has a `key` of its own, and a `stamp` that changes with its content."""

    @property
    def key(self) -> str:
        """Its name in the journal."""

    @property
    def stamp(self) -> str:
        """What it holds now."""


_Item = TypeVar("_Item", bound=Item)


@dataclass(slots=True)
class Counts:
    """Of `total` items: `known` were answered before this run, `answered` have been in it, and
    `failed` in either. This run has `asked` so many."""

    total: int
    known: int = 0
    failed: int = 0
    answered: int = 0
    asked: int = 0

    @property
    def done(self) -> int:
        """All that need no more work."""
        return self.known + self.answered + self.failed


async def carry_out(
    items: Sequence[_Item],
    do: Callable[[_Item], Awaitable[Done]],
    journal: Journal,
    *,
    num_clients: int,
    retry_failed: bool,
    on_change: Callable[[Counts], None],
) -> Counts:
    """Do, `num_clients` at a time, what the journal does not know; return when it knows all.

    What failed before counts as known unless `retry_failed`. `on_change` is told whenever the
    counts change. What `do` or the journal raises ends all; what is done then is in the journal.
    """
    counts = Counts(len(items))
    todo = []
    for item in items:
        has_failed = journal.has_failed(item.key, item.stamp)
        if has_failed is None or (has_failed and retry_failed):
            todo.append(item)
        else:
            counts.failed += has_failed
            counts.known += not has_failed
    on_change(counts)

    async def one(item: _Item) -> None:
        done = await do(item)
        await journal.append(done)
        counts.asked += 1
        counts.failed += done.error is not None
        counts.answered += done.error is None
        on_change(counts)

    await _each(todo, one, num_clients)
    return counts


async def _each(
    todo: Iterable[_Item], do: Callable[[_Item], Awaitable[None]], num_clients: int
) -> None:
    items = iter(todo)

    async def client() -> None:
        for item in items:
            await do(item)

    clients = [asyncio.create_task(client()) for _ in range(num_clients)]
    try:
        await asyncio.gather(*clients)
    finally:
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
