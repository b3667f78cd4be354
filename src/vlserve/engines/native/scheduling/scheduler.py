"""Decides what runs in the next step. Imports no torch.

A step decodes one token of each decoding sequence and prefills a bounded number of prompt tokens,
so that decoding sequences do not wait long: prefill is chunked. A waiting sequence is admitted
when a slot and memory for its whole prompt are free; the tenant with the lowest counter goes
first. When memory runs out, the most recently admitted sequence is preempted and recomputed later.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vlserve.engines.native.scheduling.fair import FairQueue
from vlserve.engines.native.scheduling.memory import Memory
from vlserve.engines.native.scheduling.pages import PAGE, round_up
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.scheduling.slots import Slots
from vlserve.types import Chunk

# Prompt tokens of a step without decoding sequences.
IDLE_STEP_TOKENS: Final = 512
# The cost of an answer token in prompt tokens (Sheng et al., see fair.py).
ANSWER_COST: Final = 2.0


@dataclass(frozen=True, slots=True)
class Prefill:
    """A chunk: tokens `start` to `end` of a sequence that is not decoding yet."""

    sequence: Sequence
    start: int
    end: int

    @property
    def is_last(self) -> bool:
        """Whether the chunk ends the prompt, so that a token of the answer is sampled."""
        return self.end == self.sequence.num_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of one step: one token of each of `decodes` (in slot order), and prefill chunks."""

    decodes: tuple[Sequence, ...]
    prefills: tuple[Prefill, ...]

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """The sequences that get a token, in the order of their rows of logits."""
        return self.decodes + tuple(p.sequence for p in self.prefills if p.is_last)

    @property
    def participants(self) -> tuple[Sequence, ...]:
        """All sequences of the step."""
        return self.decodes + tuple(p.sequence for p in self.prefills)

    def split(self) -> "tuple[Plan, ...]":
        """Plans that take less memory, to run one after the other; empty for a single sequence at
        its least.

        First with half of the prefill, the rest of which is for later steps; then prefill and
        decodes apart; then each in halves by sequence.
        """
        if (smaller := self._with_half_the_prefill()) != self:
            return (smaller,)
        if self.decodes and self.prefills:
            return Plan(self.decodes, ()), Plan((), self.prefills)
        if len(self.participants) == 1:
            return ()
        half = len(self.participants) // 2  # of the one kind that is left
        return (
            Plan(self.decodes[:half], self.prefills[:half]),
            Plan(self.decodes[half:], self.prefills[half:]),
        )

    def _with_half_the_prefill(self) -> "Plan":
        """At least a chunk, since not less than that is ever computed."""
        num_left = sum(prefill.end - prefill.start for prefill in self.prefills) // 2
        prefills: list[Prefill] = []
        for prefill in self.prefills:
            end = min(prefill.end, chunk_end(prefill.sequence, num_left))
            prefills.append(Prefill(prefill.sequence, prefill.start, end))
            num_left -= end - prefill.start
            if num_left <= 0:
                break
        return Plan(self.decodes, tuple(prefills))


class Scheduler:
    """Holds waiting and running sequences. `step_tokens` bounds the prompt tokens of a step that
    also decodes."""

    def __init__(self, num_slots: int, memory: Memory, step_tokens: int = 128) -> None:
        self.memory = memory
        self.step_tokens = step_tokens
        self._slots = Slots(num_slots)
        self._waiting: FairQueue[Sequence] = FairQueue()
        # In order of admission.
        self._running: dict[int, Sequence] = {}
        self.num_preempted = 0

    @property
    def num_running(self) -> int:
        """Running sequences."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Waiting sequences."""
        return len(self._waiting)

    @property
    def num_free_slots(self) -> int:
        """Free slots."""
        return self._slots.num_free

    @property
    def num_free_pages(self) -> int:
        """Pages that can be allocated."""
        return self.memory.pages.num_free

    @property
    def sequences(self) -> list[Sequence]:
        """Running sequences, then waiting ones."""
        return [*self._running.values(), *self._waiting.items]

    @property
    def has_work(self) -> bool:
        """Whether any sequence runs or waits."""
        return bool(self._running or len(self._waiting))

    def add(self, sequence: Sequence) -> None:
        """Append a sequence to its tenant's queue."""
        self._waiting.put(sequence.tenant, sequence)

    def plan(self) -> Plan:
        """Decode every decoding sequence, and prefill as much as memory and `step_tokens` allow."""
        for sequence in list(self._running.values()):
            if sequence.is_decoding and sequence.slot is not None:
                self._grow(sequence)
        decodes = tuple(s for _, s in sorted(self._running.items()) if s.is_decoding)
        num_tokens = self.step_tokens if decodes else IDLE_STEP_TOKENS
        return Plan(decodes, tuple(self._prefills(num_tokens)))

    def commit(
        self, plan: Plan, sampled: Iterable[tuple[Sequence, int]]
    ) -> list[tuple[Sequence, Chunk]]:
        """Account for a step that ran, append the `sampled` tokens, and remove finished sequences.
        Returns the chunk of each sampled token."""
        for sequence in plan.decodes:
            sequence.num_computed += 1
            self._waiting.charge(sequence.tenant, ANSWER_COST)
        for prefill in plan.prefills:
            prefill.sequence.num_computed = prefill.end
            self._waiting.charge(prefill.sequence.tenant, prefill.end - prefill.start)
            self.memory.publish(prefill.sequence)
        outcomes = []
        for sequence, token_id in sampled:
            chunk = sequence.append(token_id)
            if chunk.finish_reason is not None:
                self.remove(sequence)
            outcomes.append((sequence, chunk))
        return outcomes

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence, waiting or running. Does nothing for any other."""
        if sequence.slot is None:
            self._waiting.remove(sequence.tenant, sequence)
        else:
            self._release(sequence)
            sequence.slot = None
        self._waiting.forget({running.tenant for running in self._running.values()})

    def _grow(self, sequence: Sequence) -> None:
        """Allocate memory for the newest token. The most recently admitted sequences are preempted
        until there is some."""
        while not self.memory.grow(sequence):
            last = next(reversed(self._running.values()))
            self._release(last)
            last.preempt()
            self._waiting.put_front(last.tenant, last)
            self.num_preempted += 1
            if last is sequence:
                return

    def _release(self, sequence: Sequence) -> None:
        assert sequence.slot is not None  # noqa: S101 - it runs
        self.memory.release(sequence)
        del self._running[sequence.slot]
        self._slots.release(sequence.slot)

    def _prefills(self, num_left: int) -> list[Prefill]:
        started = [s for s in self._running.values() if not s.is_decoding]
        started.sort(key=lambda sequence: self._waiting.charged(sequence.tenant))
        prefills: list[Prefill] = []
        while num_left > 0:
            sequence = started.pop(0) if started else self._admit_next()
            if sequence is None:
                break
            start = sequence.num_computed
            end = chunk_end(sequence, num_left)
            prefills.append(Prefill(sequence, start, end))
            num_left -= end - start
        return prefills

    def _admit_next(self) -> Sequence | None:
        """Admit the next waiting sequence. None when none waits, or no slot or memory is free."""
        sequence = self._waiting.peek()
        if sequence is None or not self._slots.num_free:
            return None
        sequence.slot = self._slots.allocate()
        # Each running sequence will soon need a page.
        if not self.memory.admit(sequence, len(self._running)):
            self._slots.release(sequence.slot)
            sequence.slot = None
            return None
        self._waiting.pop()
        self._running[sequence.slot] = sequence
        return sequence


def chunk_end(sequence: Sequence, num_tokens: int) -> int:
    """The end of the next prefill chunk, of about `num_tokens` tokens and at least a page.

    A chunk ends at a page boundary or at the end of the prompt, and never inside a bidirectional
    span. It ends before a span; a chunk that would be empty takes the whole span.
    """
    start, last = sequence.num_computed, sequence.num_tokens
    blocks = sequence.prompt.blocks
    wanted = start + max(PAGE, num_tokens // PAGE * PAGE)
    if wanted >= last:
        return last
    end = wanted
    while end > start and (block := _cut(blocks, end)):
        end = block[0] // PAGE * PAGE
    if end > start:
        return end
    end = wanted
    while end < last and (block := _cut(blocks, end)):
        end = round_up(block[1])
    return min(end, last)


def _cut(blocks: tuple[tuple[int, int], ...], end: int) -> tuple[int, int] | None:
    return next((block for block in blocks if block[0] < end < block[1]), None)
