"""The rows of a batch that sequences own. Knows no torch."""

import heapq


class Slots:
    """Hands out slot numbers, the lowest free one first, so that those in use lie together."""

    def __init__(self, num_slots: int) -> None:
        self._free = list(range(num_slots))

    @property
    def num_free(self) -> int:
        """How many can be taken."""
        return len(self._free)

    def take(self) -> int:
        """A slot that is now owned. Raises IndexError when none is free."""
        return heapq.heappop(self._free)

    def give_back(self, slot: int) -> None:
        """Let `slot` go. Raises ValueError when it is free already."""
        if slot in self._free:
            raise ValueError(f"slot {slot} is free already")
        heapq.heappush(self._free, slot)
