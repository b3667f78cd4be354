"""Who runs in the next step: first come, first served. Knows no torch."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vlserve.engines.native.sequence import Sequence
from vlserve.engines.native.slots import Slots
from vlserve.types import Chunk

# Prompts taken into one step. Each costs a vision tower and a prefill that running streams wait
# for; more at once bring the first token sooner in a burst and make longer gaps.
MAX_PROMPTS_PER_STEP = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: a token for each of `decodes` (in slot order), and the whole of each prompt of
    `prefills`."""

    decodes: tuple[Sequence, ...]
    prefills: tuple[Sequence, ...]

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """All that run, in the order of their rows of logits."""
        return self.decodes + self.prefills


class Scheduler:
    """Sequences that wait, in order of arrival, and sequences that run, each in its slot.

    `release(slot, num_tokens)` is called for each slot that is let go, with an upper bound of the
    tokens in it.
    """

    def __init__(self, num_slots: int, release: Callable[[int, int], None]) -> None:
        self._slots = Slots(num_slots)
        self._release = release
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}

    @property
    def num_running(self) -> int:
        """Sequences that own a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._waiting)

    @property
    def num_free_slots(self) -> int:
        """Slots without an owner."""
        return self._slots.num_free

    @property
    def sequences(self) -> list[Sequence]:
        """Those that run and those that wait."""
        return [*self._running.values(), *self._waiting]

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue behind those that wait."""
        self._waiting.append(sequence)

    def plan(self) -> Plan:
        """Everyone who runs, and as many who wait as slots and the step allow."""
        decodes = tuple(self._running[slot] for slot in sorted(self._running))
        prefills: list[Sequence] = []
        while self._waiting and self._slots.num_free and len(prefills) < MAX_PROMPTS_PER_STEP:
            sequence = self._waiting.popleft()
            sequence.slot = self._slots.take()
            self._running[sequence.slot] = sequence
            prefills.append(sequence)
        return Plan(decodes, tuple(prefills))

    def commit(self, sampled: Iterable[tuple[Sequence, int]]) -> list[tuple[Sequence, Chunk]]:
        """Give each sequence its next token and let go of those that are done."""
        outcomes = []
        for sequence, token_id in sampled:
            chunk = sequence.append(token_id)
            if chunk.finish_reason is not None:
                self.remove(sequence)
            outcomes.append((sequence, chunk))
        return outcomes

    def remove(self, sequence: Sequence) -> None:
        """Let go of a sequence that waits or runs; one that does neither is no error."""
        slot = sequence.slot
        if slot is None:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
            return
        # First, because it may fail: a sequence that still runs is told so.
        self._release(slot, sequence.num_tokens)
        del self._running[slot]
        sequence.slot = None
        self._slots.give_back(slot)
