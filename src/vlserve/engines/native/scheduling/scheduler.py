"""What runs in the next step. Knows no torch.

A step gives a token to everyone who decodes, and computes as many tokens of prompts as leave the
decoding ones no long wait: a long prompt is cut into chunks. Who waits comes in when there is a
slot and room for its whole prompt, those of the tenant that was served least first. When room
runs out, whoever came last gives its own back and is computed again later.
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

# Tokens of prompts in a step that nobody who decodes waits for.
IDLE_STEP_TOKENS: Final = 512
# What a token of an answer costs, in tokens of a prompt (Sheng et al., see fair.py).
ANSWER_COST: Final = 2.0


@dataclass(frozen=True, slots=True)
class Prefill:
    """Tokens `start` to `end` of a sequence that is not decoding yet."""

    sequence: Sequence
    start: int
    end: int

    @property
    def is_last(self) -> bool:
        """Whether the next token of the answer follows."""
        return self.end == self.sequence.num_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: a token for each of `decodes` (in slot order), and parts of prompts."""

    decodes: tuple[Sequence, ...]
    prefills: tuple[Prefill, ...]

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """Those that get a token, in the order of their rows of logits."""
        return self.decodes + tuple(p.sequence for p in self.prefills if p.is_last)

    @property
    def participants(self) -> tuple[Sequence, ...]:
        """All whose tokens are computed."""
        return self.decodes + tuple(p.sequence for p in self.prefills)


class Scheduler:
    """Sequences that wait, and sequences that run, each in its slot. `step_tokens` bounds the
    tokens of prompts in a step that others who decode wait for."""

    def __init__(self, num_slots: int, memory: Memory, step_tokens: int = 128) -> None:
        self.memory = memory
        self.step_tokens = step_tokens
        self._slots = Slots(num_slots)
        self._waiting: FairQueue[Sequence] = FairQueue()
        # In the order in which they came in.
        self._running: dict[int, Sequence] = {}
        self.num_preempted = 0

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
    def num_free_pages(self) -> int:
        """Pages that can be had."""
        return self.memory.pages.num_free

    @property
    def sequences(self) -> list[Sequence]:
        """Those that run and those that wait."""
        return [*self._running.values(), *self._waiting.items]

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or len(self._waiting))

    def add(self, sequence: Sequence) -> None:
        """Queue behind those of the same tenant that wait."""
        self._waiting.put(sequence.tenant, sequence)

    def plan(self) -> Plan:
        """Everyone who decodes, and as much of prompts as room and the step allow."""
        for sequence in list(self._running.values()):
            if sequence.is_decoding and sequence.slot is not None:
                self._make_room(sequence)
        decodes = tuple(s for _, s in sorted(self._running.items()) if s.is_decoding)
        num_tokens = self.step_tokens if decodes else IDLE_STEP_TOKENS
        return Plan(decodes, tuple(self._prefills(num_tokens)))

    def commit(
        self, plan: Plan, sampled: Iterable[tuple[Sequence, int]]
    ) -> list[tuple[Sequence, Chunk]]:
        """What the step has computed counts; give each sequence its next token and let go of
        those that are done."""
        for sequence in plan.decodes:
            sequence.num_computed += 1
            self._waiting.charge(sequence.tenant, ANSWER_COST)
        for prefill in plan.prefills:
            prefill.sequence.num_computed = prefill.end
            self._waiting.charge(prefill.sequence.tenant, prefill.end - prefill.start)
            self.memory.keep(prefill.sequence)
        outcomes = []
        for sequence, token_id in sampled:
            chunk = sequence.append(token_id)
            if chunk.finish_reason is not None:
                self.remove(sequence)
            outcomes.append((sequence, chunk))
        return outcomes

    def remove(self, sequence: Sequence) -> None:
        """Let go of a sequence that waits or runs; one that does neither is no error."""
        if sequence.slot is None:
            self._waiting.remove(sequence.tenant, sequence)
        else:
            self._release(sequence)
            sequence.slot = None
        self._waiting.forget({running.tenant for running in self._running.values()})

    def _make_room(self, sequence: Sequence) -> None:
        """For its newest token, at the cost of whoever came last if need be."""
        while not self.memory.grow(sequence):
            last = next(reversed(self._running.values()))
            self._release(last)
            last.restart()
            self._waiting.put_first(last.tenant, last)
            self.num_preempted += 1
            if last is sequence:
                return

    def _release(self, sequence: Sequence) -> None:
        assert sequence.slot is not None  # noqa: S101 - it runs
        self.memory.release(sequence)
        del self._running[sequence.slot]
        self._slots.give_back(sequence.slot)

    def _prefills(self, num_left: int) -> list[Prefill]:
        begun = [s for s in self._running.values() if not s.is_decoding]
        begun.sort(key=lambda sequence: self._waiting.charged(sequence.tenant))
        prefills: list[Prefill] = []
        while num_left > 0:
            sequence = begun.pop(0) if begun else self._admitted()
            if sequence is None:
                break
            start = sequence.num_computed
            end = chunk_end(sequence, num_left)
            prefills.append(Prefill(sequence, start, end))
            num_left -= end - start
        return prefills

    def _admitted(self) -> Sequence | None:
        """Who comes in next, or None where nobody waits or there is no room."""
        sequence = self._waiting.peek()
        if sequence is None or not self._slots.num_free:
            return None
        sequence.slot = self._slots.take()
        # Everyone who runs will soon want a page.
        if not self.memory.admit(sequence, len(self._running)):
            self._slots.give_back(sequence.slot)
            sequence.slot = None
            return None
        self._waiting.pop()
        self._running[sequence.slot] = sequence
        return sequence


def chunk_end(sequence: Sequence, num_tokens: int) -> int:
    """Where a chunk of about `num_tokens` (a page at least) that begins at what is computed ends.

    At a page's end or the prompt's, and never inside a block, whose tokens must see each other: it
    ends before one, and only a chunk that would be empty takes the whole of it.
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
