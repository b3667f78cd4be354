"""What sequences own of the KV cache: a slot each on a CPU, pages of their own on a GPU.

Both count in pages and both know the beginnings of prompts. On a CPU attention wants a sequence's
keys in one piece: a known beginning is copied into the slot. On a GPU it is shared. Knows no
torch.
"""

from collections.abc import Sequence as Seq
from typing import Protocol

from vlserve.engines.native.scheduling.pages import PAGE, Pages, num_pages
from vlserve.engines.native.scheduling.sequence import Sequence


class SlotStore(Protocol):
    """The slots and the copies of known pages."""

    def save(self, page: int, slot: int, index: int) -> None:
        """Copy page `index` of a slot to where `page` is kept."""

    def restore(self, slot: int, pages: Seq[int]) -> None:
        """Copy kept pages to the beginning of a slot."""

    def forget(self, page: int) -> None:
        """Let the copy go."""

    def clear(self, slot: int, num_tokens: int) -> None:
        """Empty a slot that holds `num_tokens` at most."""


class Memory(Protocol):
    """Room for sequences. Who was admitted and not released has room for the tokens it had then,
    and for each that came since if there was a `grow` for it."""

    pages: Pages

    def admit(self, sequence: Sequence, num_spare: int) -> bool:
        """Room for a sequence that waits, with `num_spare` pages left; what is known of its
        prompt counts as computed. False where there is none."""

    def grow(self, sequence: Sequence) -> bool:
        """Room for all its tokens, of which the newest may have none; False where there is none."""

    def keep(self, sequence: Sequence) -> None:
        """Let others find the computed pages of its prompt."""

    def release(self, sequence: Sequence) -> None:
        """Take all its room back."""


class SlotMemory:
    """Memory over a SlotStore. Pages are a count here: each stands for PAGE tokens of some slot,
    or for the kept copy of a known page."""

    def __init__(self, num_pages: int, store: SlotStore) -> None:
        self.pages = Pages(num_pages, store.forget)
        self._store = store

    def admit(self, sequence: Sequence, num_spare: int) -> bool:
        """See Memory."""
        needed = num_pages(sequence.num_tokens)
        if self.pages.num_free < needed + num_spare:
            return False
        known = self.pages.find(sequence.known_digests)
        # Held, so that taking room for the copy does not give them up. Of a sequence that wants
        # nearly all there is, only so much is known as can lie beside it.
        known = known[: self.pages.num_pages - needed]
        self.pages.hold(known)
        try:
            while self.pages.num_free < needed:
                self.pages.let_go([known.pop()])
            assert sequence.slot is not None  # noqa: S101 - the scheduler gave it one
            self._store.restore(sequence.slot, known)
            sequence.pages = self.pages.take(needed)
            sequence.come_in(len(known) * PAGE)
        finally:
            self.pages.let_go(known)
        return True

    def grow(self, sequence: Sequence) -> bool:
        """See Memory."""
        return _grow(self.pages, sequence)

    def keep(self, sequence: Sequence) -> None:
        """See Memory. Only as far as there is room that nobody waits for."""
        assert sequence.slot is not None  # noqa: S101 - it runs
        for index in sequence.new_pages():
            digest = sequence.digests[index]
            if self.pages.knows(digest) or not self.pages.num_free:
                continue
            copy = self.pages.take(1)
            self._store.save(copy[0], sequence.slot, index)
            self.pages.publish(digest, copy[0])
            self.pages.let_go(copy)

    def release(self, sequence: Sequence) -> None:
        """See Memory."""
        assert sequence.slot is not None  # noqa: S101 - it runs
        # First, because it may fail: a sequence that still runs is told so.
        self._store.clear(sequence.slot, sequence.num_tokens)
        self.pages.let_go(sequence.pages)
        sequence.pages = []


class PagedMemory:
    """Memory where a sequence's pages are where its keys are, and known ones are shared."""

    def __init__(self, num_pages: int) -> None:
        self.pages = Pages(num_pages)

    def admit(self, sequence: Sequence, num_spare: int) -> bool:
        """See Memory."""
        known = self.pages.find(sequence.known_digests)
        self.pages.hold(known)
        needed = num_pages(sequence.num_tokens) - len(known)
        if self.pages.num_free < needed + num_spare:
            self.pages.let_go(known)
            return False
        sequence.pages = known + self.pages.take(needed)
        sequence.come_in(len(known) * PAGE)
        return True

    def grow(self, sequence: Sequence) -> bool:
        """See Memory."""
        return _grow(self.pages, sequence)

    def keep(self, sequence: Sequence) -> None:
        """See Memory."""
        for index in sequence.new_pages():
            self.pages.publish(sequence.digests[index], sequence.pages[index])

    def release(self, sequence: Sequence) -> None:
        """See Memory."""
        self.pages.let_go(sequence.pages)
        sequence.pages = []


def _grow(pages: Pages, sequence: Sequence) -> bool:
    if num_pages(sequence.num_tokens) > len(sequence.pages):
        if not pages.num_free:
            return False
        sequence.pages += pages.take(1)
    return True
