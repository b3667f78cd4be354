"""The rows of the KV cache that sequences own. Knows no torch."""

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


def plan_slots(
    *, cache_bytes: int, bytes_per_token: int, max_positions: int, max_running: int
) -> tuple[int, int]:
    """`(num_slots, num_tokens)` of a cache within `cache_bytes`; a slot holds `num_tokens`.

    A slot holds the model's whole context if `max_running` of them fit. Where they do not, slots
    become shorter, but not below MIN_SLOT_TOKENS: from there on they become fewer, and work waits.

    Raises ValueError when not one slot fits.
    """
    capacity = cache_bytes // bytes_per_token // LENGTH_STEP * LENGTH_STEP
    if capacity < LENGTH_STEP:
        raise ValueError(f"the cache bound holds no {LENGTH_STEP} tokens")
    share = capacity // max_running // LENGTH_STEP * LENGTH_STEP
    fair = max(share, min(MIN_SLOT_TOKENS, capacity))
    num_tokens = round_up(min(fair, max_positions))
    num_tokens = min(num_tokens, capacity)
    return min(max_running, capacity // num_tokens), num_tokens


# Attention over a key length that is a multiple of this gives the same bits whatever the length.
LENGTH_STEP = 16
MIN_SLOT_TOKENS = 2048


def round_up(num_tokens: int) -> int:
    """The next multiple of LENGTH_STEP."""
    return -(-num_tokens // LENGTH_STEP) * LENGTH_STEP
