"""Slots: the rows of a batch, each owned by one running sequence. Imports no torch."""

import heapq


class Slots:
    """A free list of slot numbers. The lowest free slot is allocated first, so that used slots are
    contiguous."""

    def __init__(self, num_slots: int) -> None:
        self._free = list(range(num_slots))

    @property
    def num_free(self) -> int:
        """Free slots."""
        return len(self._free)

    def allocate(self) -> int:
        """Allocate the lowest free slot. Raises IndexError when none is free."""
        return heapq.heappop(self._free)

    def release(self, slot: int) -> None:
        """Free a slot. Raises ValueError when it is free already."""
        if slot in self._free:
            raise ValueError(f"slot {slot} is free already")
        heapq.heappush(self._free, slot)
