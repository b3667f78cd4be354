"""Pages and slots: none is lost, none has two owners, and what is known is what was computed."""

import asyncio
import hashlib
import random
from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np
import pytest

from vlserve.engines.native.scheduling.memory import Memory, PagedMemory, SlotMemory
from vlserve.engines.native.scheduling.pages import PAGE, Pages, num_pages, page_digests
from vlserve.engines.native.scheduling.scheduler import Prefill, Scheduler, chunk_end
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.text.detokenizer import Detokenizer
from vlserve.models.prompt import Prompt, PromptImage
from vlserve.types import SamplingParams

NUM_PAGES = 24
NUM_SLOTS = 6


class Features:
    """As many tokens as were asked for."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.num_bytes = 8 * num_tokens


class Ledger:
    """A SlotStore that knows what each slot and each kept page must hold."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[int, int]] = {}
        self.cleared: list[int] = []

    def save(self, page: int, slot: int, index: int) -> None:
        assert page not in self.kept
        self.kept[page] = (slot, index)

    def restore(self, slot: int, pages: Seq[int]) -> None:
        assert all(page in self.kept for page in pages)

    def evict(self, page: int) -> None:
        del self.kept[page]

    def clear(self, slot: int, num_tokens: int) -> None:
        self.cleared.append(slot)


def prompt(token_ids: Seq[int], images: Seq[str] = (), places: Seq[int] = ()) -> Prompt:
    each = len(places) // len(images) if images else 0
    pictures = tuple(PromptImage(key, "", {}, Features(each)) for key in images)
    return Prompt(tuple(token_ids), images=pictures, places=np.array(places, np.int64))


def sequence(name: str, asked: Prompt, max_tokens: int, tenant: str = "") -> Sequence:
    return Sequence(
        id=name,
        prompt=asked,
        sampling=SamplingParams(max_tokens=max_tokens),
        max_new_tokens=max_tokens,
        stop_token_ids=frozenset(),
        detokenizer=Detokenizer(lambda ids: "x" * len(ids)),
        outbox=asyncio.Queue(),
        tenant=tenant,
        digests=page_digests(asked, tenant),
    )


def check(scheduler: Scheduler, pages: Pages) -> None:
    running = [s for s in scheduler.sequences if s.slot is not None]
    assert scheduler.num_running + scheduler.num_free_slots == NUM_SLOTS
    assert len({s.slot for s in running}) == len(running) == scheduler.num_running
    held = {page for s in running for page in s.pages}
    assert len(held) + pages.num_free == NUM_PAGES
    for each in running:
        assert len(each.pages) >= num_pages(each.num_computed)


@pytest.mark.parametrize("kind", ["slots", "pages"])
def test_no_page_and_no_slot_is_lost(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(7)
    ledger = Ledger()
    memory: Memory = SlotMemory(NUM_PAGES, ledger) if kind == "slots" else PagedMemory(NUM_PAGES)
    scheduler = Scheduler(NUM_SLOTS, memory)
    beginnings = [[rng.randrange(50) for _ in range(5 * PAGE)] for _ in range(4)]
    num_done, counts = 0, dict.fromkeys(("add", "cancel", "error", "finish"), 0)
    while num_done < 5000:
        if rng.random() < 0.5 and scheduler.num_waiting < 10:
            start = rng.choice(beginnings)[: rng.randrange(5 * PAGE)]
            ids = [*start, *(rng.randrange(50) for _ in range(rng.randint(1, 40)))]
            tenant = rng.choice(("a", "b"))
            scheduler.add(sequence(str(num_done), prompt(ids), rng.randint(1, 90), tenant))
            counts["add"] += 1
        plan = scheduler.plan()
        check(scheduler, memory.pages)
        for prefill in plan.prefills:
            assert prefill.start == prefill.sequence.num_computed < prefill.end
        if plan.participants and rng.random() < 0.02:
            # A step that failed: all in it are let go.
            for each in plan.participants:
                scheduler.remove(each)
                num_done += 1
                counts["error"] += 1
        else:
            outcomes = scheduler.commit(plan, [(s, rng.randrange(50)) for s in plan.sequences])
            ended = sum(chunk.finish_reason is not None for _, chunk in outcomes)
            num_done += ended
            counts["finish"] += ended
        if scheduler.sequences and rng.random() < 0.1:
            scheduler.remove(rng.choice(scheduler.sequences))
            num_done += 1
            counts["cancel"] += 1
        check(scheduler, memory.pages)
    for each in scheduler.sequences:
        scheduler.remove(each)
    check(scheduler, memory.pages)
    assert memory.pages.num_free == NUM_PAGES
    assert memory.pages.num_cached_pages > 0
    assert scheduler.num_preempted > 0
    with capsys.disabled():
        print(f"{kind}: {counts}, preempted {scheduler.num_preempted}, free {NUM_PAGES} of 24")


def test_giving_a_page_back_twice_is_an_error() -> None:
    pages = Pages(2)
    taken = pages.allocate(1)
    pages.release(taken)
    with pytest.raises(ValueError, match="free already"):
        pages.release(taken)
    with pytest.raises(IndexError, match="3 pages needed, 2 free"):
        pages.allocate(3)


def test_the_least_recently_used_page_goes_first_and_of_a_beginning_its_end() -> None:
    forgotten: list[int] = []
    pages = Pages(4, forgotten.append)
    digests = [hashlib.sha256(bytes([i])).digest() for i in range(4)]
    old, new = pages.allocate(2), pages.allocate(2)
    for digest, page in zip(digests, old + new, strict=True):
        pages.publish(digest, page)
    pages.release(old)
    pages.release(new)
    assert pages.find(digests[:2]) == old
    pages.allocate(3)
    assert forgotten == [new[1], new[0], old[1]]
    assert pages.find(digests[:2]) == old[:1]


def same(first: Prompt, second: Prompt, tenants: tuple[str, str] = ("", "")) -> int:
    pairs = zip(page_digests(first, tenants[0]), page_digests(second, tenants[1]), strict=True)
    return sum(a == b for a, b in pairs)


def test_digests_say_what_keys_depend_on() -> None:
    ids = [7] * (4 * PAGE)
    places = range(PAGE, 2 * PAGE)
    plain = prompt(ids)
    assert same(plain, prompt(ids)) == 4
    assert same(plain, prompt([*ids[:-1], 8])) == 3
    assert same(plain, prompt([8, *ids[1:]])) == 0
    assert same(plain, plain, ("a", "b")) == 0
    cat, dog = prompt(ids, ["cat"], places), prompt(ids, ["dog"], places)
    assert same(cat, prompt(ids, ["cat"], places)) == 4
    assert same(cat, dog) == 1
    assert same(cat, plain) == 1
    two = prompt(ids, ["cat", "dog"], places)
    assert same(two, prompt(ids, ["dog", "cat"], places)) == 1


@pytest.mark.parametrize(
    ("computed", "budget", "blocks", "end"),
    [
        (0, 1000, (), 200),
        (0, 100, (), 96),
        (0, 1, (), 32),
        (96, 64, (), 160),
        (0, 64, ((40, 90),), 32),
        (32, 32, ((40, 90),), 96),
        (0, 64, ((10, 90),), 96),
        (0, 64, ((10, 90), (93, 120)), 128),
        (0, 64, ((10, 190),), 192),
        (0, 64, ((10, 199),), 200),
    ],
)
def test_chunks_end_with_pages_and_never_inside_a_block(
    computed: int, budget: int, blocks: tuple[tuple[int, int], ...], end: int
) -> None:
    asked = Prompt(tuple(range(200)), blocks=blocks)
    each = sequence("s", asked, 5)
    each.num_computed = computed
    assert chunk_end(each, budget) == end


def drive(scheduler: Scheduler, on_plan: Callable[[tuple[Prefill, ...]], None]) -> None:
    while scheduler.has_work:
        plan = scheduler.plan()
        on_plan(plan.prefills)
        scheduler.commit(plan, [(s, 1) for s in plan.sequences])


@pytest.mark.parametrize("kind", ["slots", "pages"])
@pytest.mark.parametrize("length", range(PAGE, NUM_PAGES * PAGE, 3 * PAGE + 1))
def test_a_known_prompt_that_wants_nearly_all_room_comes_in(kind: str, length: int) -> None:
    memory: Memory = SlotMemory(NUM_PAGES, Ledger()) if kind == "slots" else PagedMemory(NUM_PAGES)
    scheduler = Scheduler(NUM_SLOTS, memory)
    for part in (2, 1, 1):
        scheduler.add(sequence("s", prompt([7] * (length // part)), 3))
        for _ in range(100):
            plan = scheduler.plan()
            scheduler.commit(plan, [(s, 1) for s in plan.sequences])
        assert not scheduler.sequences
        check(scheduler, memory.pages)


@pytest.mark.parametrize("kind", ["slots", "pages"])
def test_what_a_request_had_computed_itself_does_not_count_as_known(kind: str) -> None:
    memory: Memory = SlotMemory(NUM_PAGES, Ledger()) if kind == "slots" else PagedMemory(NUM_PAGES)
    each = sequence("s", prompt([7] * (4 * PAGE + 5)), 3)
    each.slot = 0
    assert memory.admit(each, 0)
    each.has_begun = True
    each.num_computed = each.num_tokens
    memory.publish(each)
    memory.release(each)
    each.preempt()
    each.slot = 0
    assert memory.admit(each, 0)
    assert (each.num_computed, each.num_cached) == (4 * PAGE, 0)
    assert not each.take_new_pages()


def test_who_asks_much_does_not_keep_others_waiting() -> None:
    scheduler = Scheduler(1, PagedMemory(64))
    for index in range(20):
        scheduler.add(sequence(f"much {index}", prompt([index] * 40), 10, "much"))
    scheduler.add(sequence("little", prompt([3] * 40), 10, "little"))
    order: list[str] = []
    drive(scheduler, lambda prefills: order.extend(p.sequence.id for p in prefills))
    assert order.index("little") <= 2


def test_a_tenant_does_not_save_up_turns() -> None:
    scheduler = Scheduler(1, PagedMemory(64))
    for index in range(10):
        scheduler.add(sequence(f"early {index}", prompt([index] * 40), 10, "early"))
    order: list[str] = []

    def note(prefills: tuple[Prefill, ...]) -> None:
        order.extend(p.sequence.id for p in prefills)
        if len(order) == 5 and prefills:
            for index in range(10):
                scheduler.add(sequence(f"late {index}", prompt([index] * 40), 10, "late"))

    drive(scheduler, note)
    between = order[5:15]
    assert 4 <= sum(name.startswith("late") for name in between) <= 6
