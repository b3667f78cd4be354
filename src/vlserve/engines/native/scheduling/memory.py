"""Allocation of the KV cache to sequences: contiguous slots on a CPU, pages on a GPU.

Both count in pages and both have a prefix cache. Attention on a CPU needs the keys of a sequence
contiguous, so a cached prefix is copied into the slot; on a GPU its pages are shared. Imports no
torch.
"""

from collections.abc import Sequence as Seq
from typing import Protocol

from vlserve.engines.native.scheduling.pages import PAGE, Pages, num_pages
from vlserve.engines.native.scheduling.sequence import Sequence


class SlotStore(Protocol):
    """The slots and the copies of cached pages."""

    def save(self, page: int, slot: int, index: int) -> None:
        """Copy page `index` of a slot into the cached page `page`."""

    def restore(self, slot: int, pages: Seq[int]) -> None:
        """Copy cached pages to the start of a slot."""

    def evict(self, page: int) -> None:
        """Free the copy of a cached page."""

    def clear(self, slot: int, num_tokens: int) -> None:
        """Zero a slot that holds at most `num_tokens` tokens."""


class Memory(Protocol):
    """Allocates the KV cache to sequences. An admitted sequence has memory for its tokens at
    admission, and for each later token after a `grow`."""

    pages: Pages

    def admit(self, sequence: Sequence, num_spare: int) -> bool:
        """Allocate memory for a waiting sequence if `num_spare` pages stay free. The cached prefix
        of its prompt counts as computed. Returns False when too few pages are free."""

    def grow(self, sequence: Sequence) -> bool:
        """Allocate memory for the newest token if it has none. False when no page is free."""

    def publish(self, sequence: Sequence) -> None:
        """Add the computed full pages of its prompt to the prefix cache."""

    def release(self, sequence: Sequence) -> None:
        """Free its memory."""


class SlotMemory:
    """Memory over a SlotStore. A page is a unit of account: PAGE tokens of some slot, or the copy
    of a cached page."""

    def __init__(self, num_pages: int, store: SlotStore) -> None:
        self.pages = Pages(num_pages, store.evict)
        self._store = store

    def admit(self, sequence: Sequence, num_spare: int) -> bool:
        """See Memory."""
        needed = num_pages(sequence.num_tokens)
        if self.pages.num_free < needed + num_spare:
            return False
        cached = self.pages.find(sequence.cacheable_digests)
        # Referenced, so that allocating the slot's pages does not evict them. A sequence that needs
        # nearly all pages uses only as much of its prefix as fits beside it.
        cached = cached[: self.pages.num_pages - needed]
        self.pages.acquire(cached)
        try:
            while self.pages.num_free < needed:
                self.pages.release([cached.pop()])
            assert sequence.slot is not None  # noqa: S101 - the scheduler gave it one
            self._store.restore(sequence.slot, cached)
            sequence.pages = self.pages.allocate(needed)
            sequence.admit(len(cached) * PAGE)
        finally:
            self.pages.release(cached)
        return True

    def grow(self, sequence: Sequence) -> bool:
        """See Memory."""
        return _grow(self.pages, sequence)

    def publish(self, sequence: Sequence) -> None:
        """See Memory. Stops when no page is free."""
        assert sequence.slot is not None  # noqa: S101 - it runs
        for index in sequence.take_new_pages():
            digest = sequence.digests[index]
            if self.pages.has(digest) or not self.pages.num_free:
                continue
            copy = self.pages.allocate(1)
            self._store.save(copy[0], sequence.slot, index)
            self.pages.publish(digest, copy[0])
            self.pages.release(copy)

    def release(self, sequence: Sequence) -> None:
        """See Memory."""
        assert sequence.slot is not None  # noqa: S101 - it runs
        # First, because it may fail: the sequence then still owns its memory.
        self._store.clear(sequence.slot, sequence.num_tokens)
        self.pages.release(sequence.pages)
        sequence.pages = []


class PagedMemory:
    """Memory in which the pages of a sequence hold its keys and values; cached pages are shared."""

    def __init__(self, num_pages: int) -> None:
        self.pages = Pages(num_pages)

    def admit(self, sequence: Sequence, num_spare: int) -> bool:
        """See Memory."""
        cached = self.pages.find(sequence.cacheable_digests)
        self.pages.acquire(cached)
        needed = num_pages(sequence.num_tokens) - len(cached)
        if self.pages.num_free < needed + num_spare:
            self.pages.release(cached)
            return False
        sequence.pages = cached + self.pages.allocate(needed)
        sequence.admit(len(cached) * PAGE)
        return True

    def grow(self, sequence: Sequence) -> bool:
        """See Memory."""
        return _grow(self.pages, sequence)

    def publish(self, sequence: Sequence) -> None:
        """See Memory."""
        for index in sequence.take_new_pages():
            self.pages.publish(sequence.digests[index], sequence.pages[index])

    def release(self, sequence: Sequence) -> None:
        """See Memory."""
        self.pages.release(sequence.pages)
        sequence.pages = []


class WholeMemory:
    """Memory of a model that keeps the keys and values of its one sequence itself. No pages, and no
    prefix cache."""

    def __init__(self) -> None:
        self.pages = Pages(0)

    def admit(self, sequence: Sequence, num_spare: int) -> bool:
        """See Memory."""
        del num_spare
        sequence.admit(0)
        return True

    def grow(self, sequence: Sequence) -> bool:
        """See Memory."""
        del sequence
        return True

    def publish(self, sequence: Sequence) -> None:
        """See Memory."""

    def release(self, sequence: Sequence) -> None:
        """See Memory."""


def _grow(pages: Pages, sequence: Sequence) -> bool:
    if num_pages(sequence.num_tokens) > len(sequence.pages):
        if not pages.num_free:
            return False
        sequence.pages += pages.allocate(1)
    return True
