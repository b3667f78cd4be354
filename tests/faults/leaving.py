"""One request held in a phase, its caller gone: what is asked, of each cell of the matrix.

Is all that it held back within one step of the engine after the abort has arrived, was it aborted
once, and are the answers of those who ran beside it the ones that they get alone?
"""

import asyncio
import io
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from tests.faults.callers import Ask, Caller, Door, Raw, Way, grpc_caller, http_caller
from tests.faults.held import Hold, Phase
from tests.faults.held_house import MAX_TOKENS, NUM_SLOTS, House
from tests.waiting import until
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb

MAX_STEPS = 1
COMES_S = 10.0  # for a request to come to its gate
HEARD_S = 2.0  # for a caller's leaving to be heard of where it matters
UNHEARD_S = 0.3  # the same where the protection is off
IN_FRONT = (Phase.FETCH, Phase.DECODE, Phase.FLUSH)  # what the engine need not hear of
HELD_SIZE, NEIGHBOURS_SIZE = (61, 47), (8, 6)
PROMPT_TOKENS = 120  # a letter each: several steps
Answer = tuple[tuple[int, float], ...]  # ids of tokens and their log-probabilities


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the matrix."""

    phase: Phase
    door: Door
    is_stream: bool

    @property
    def can_be(self) -> bool:
        """Whether there is such a request: two doors take no URL."""
        return self.phase is not Phase.FETCH or self.door in {Door.GRPC, Door.OPENAI}

    @property
    def ways(self) -> list[Way]:
        """How its caller may leave: a call of HTTP/1.1 is its connection. Of a message of which
        gRPC has only half nobody can see whether it was dropped, but of its connection."""
        ends = [Way.CLOSE, Way.RESET]
        return [Way.CANCEL, *ends] if self.door.is_grpc and self.phase is not Phase.UPLOAD else ends

    @property
    def num_neighbours(self) -> int:
        """Callers beside it: they leave it one slot, or none."""
        return NUM_SLOTS + 1 if self.phase is Phase.QUEUED else NUM_SLOTS - 1

    def __str__(self) -> str:
        return f"{self.phase} {self.door} {'stream' if self.is_stream else 'unary'}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One caller who left. `num_steps` began between the abort's arrival and the moment in which
    all was back, `freed_ms` after the caller left; None where it never was. Of one that `runs_on`
    the engine goes on meanwhile, and the abort arrives in whatever moment of a step it likes."""

    cell: Cell
    way: Way
    runs_on: bool
    num_steps: int | None
    freed_ms: float | None
    num_aborts: int
    num_neighbours: int
    broken: list[str] = field(default_factory=list)


Control = Callable[[House, Cell], AbstractContextManager[object]]
# Unary and stream. REST has no stream: KServe's stands in its place.
_KINDS = {
    Door.GRPC: (False, True),
    Door.OPENAI: (False, True),
    Door.REST: (False,),
    Door.KSERVE: (True,),
}
CELLS = [
    Cell(phase, door, kind) for phase in Phase for door, kinds in _KINDS.items() for kind in kinds
]
TRIED = [cell for cell in CELLS if cell.can_be]
# The controls. That half a message is dropped is gRPC's own doing; the wall has a part in those
# phases alone that the engine knows of.
DEAF = [cell for cell in TRIED if cell.phase is not Phase.UPLOAD or not cell.door.is_grpc]
WALLED = [cell for cell in TRIED if cell.phase not in (Phase.UPLOAD, *IN_FRONT)]


def png(size: tuple[int, int], number: int, mark: str = "") -> bytes:
    """A picture of a colour of its own, with a mark in a comment."""
    file, comments = io.BytesIO(), PngImagePlugin.PngInfo()
    if mark:
        comments.add_text("Comment", mark)
    colour = (number >> 16 & 255, number >> 8 & 255, number & 255)
    Image.new("RGB", size, colour).save(file, "PNG", pnginfo=comments)
    return file.getvalue()


class Neighbours:
    """Callers who stay. Each answer is compared with the one that came when nobody else asked."""

    def __init__(self, client: GrpcClient) -> None:
        self._client = client
        self._alone: list[Answer] = []

    async def start(self) -> None:
        """Ask each question alone."""
        for index in range(NUM_SLOTS + 1):
            self._alone.append(await self._ask(index, asyncio.Event()))

    async def run(self, num: int) -> "list[asyncio.Task[bool]]":
        """`num` of them, when all that have a slot are being answered; whether each is answered
        as it was alone."""
        begun = [asyncio.Event() for _ in range(num)]
        tasks = [asyncio.create_task(self._is_same(i, event)) for i, event in enumerate(begun)]
        async with asyncio.timeout(COMES_S):
            while sum(event.is_set() for event in begun) < min(num, NUM_SLOTS):
                await asyncio.sleep(0.001)
        return tasks

    async def _is_same(self, index: int, begun: asyncio.Event) -> bool:
        return await self._ask(index, begun) == self._alone[index]

    async def _ask(self, index: int, begun: asyncio.Event) -> Answer:
        sampling = pb.Sampling(max_tokens=MAX_TOKENS, logprobs=0)
        wire = pb.VisionRequest(
            image=png(NEIGHBOURS_SIZE, 77_777 * index),
            prompt=f"neighbour {index}",
            sampling=sampling,
        )
        tokens: list[tuple[int, float]] = []
        async for piece in self._client.chat_stream(wire):
            begun.set()
            tokens += [(each.token_id, each.logprob) for each in piece.logprobs]
        # A special token is no part of the text, and has no log-probability.
        assert piece.usage.completion_tokens == MAX_TOKENS
        assert tokens
        return tuple(tokens)


class Matrix:
    """Tries one cell after the other in a house. Each trial has a number of its own."""

    def __init__(self, house: House, neighbours: Neighbours, rng: random.Random) -> None:
        self._house = house
        self._neighbours = neighbours
        self._rng = rng
        self._number = 0

    async def trials(self, cells: Iterable[Cell], control: Control | None = None) -> list[Trial]:
        """One for each cell, with the protection switched off by `control`."""
        done = []
        for cell in cells:
            with control(self._house, cell) if control else nullcontext():
                done.append(await self._trial(cell, UNHEARD_S if control else HEARD_S))
            if done[-1].broken and control is None:
                print(f"{cell}, {done[-1].way}: {'; '.join(done[-1].broken)}", file=sys.stderr)
        return done

    async def _trial(self, cell: Cell, heard_s: float) -> Trial:
        self._number += 1
        self._house.notes.forget()
        hold = Hold(cell.phase, self._number)
        way = self._rng.choice(cell.ways)
        runs_on = cell.phase in {Phase.PREFILL, Phase.STEP} and self._rng.random() < 0.5
        neighbours: list[asyncio.Task[bool]] = []
        calling = self._caller(cell, way, hold)
        broken: list[str] = []
        freed: tuple[int, float] | None = None
        num_beside, left_s = 0, 0.0
        try:
            if cell.phase is not Phase.FLUSH:
                neighbours = await self._neighbours.run(cell.num_neighbours)
            await calling.send(half=cell.phase is Phase.UPLOAD)
            await self._there(cell, hold, calling)
            if cell.phase is Phase.FLUSH:  # earlier, they would have ended as well by now
                neighbours = await self._neighbours.run(cell.num_neighbours)
            num_beside = sum(not task.done() for task in neighbours)
            left_s = time.monotonic()
            await calling.leave()
            if runs_on:
                hold.open()
            freed = await self._freed(cell, hold, calling, heard_s, broken)
        except TimeoutError:
            broken.append("the request never came to where it was to be held")
        finally:
            hold.open()
            await calling.close()
        if not all(await asyncio.gather(*neighbours)):
            broken.append("a neighbour was answered otherwise than alone")
        taken = await self._house.idle()
        broken += [f"still taken: {name} {num}" for name, num in taken.items()]
        num_aborts = self._count(cell, hold, broken)
        num_steps, freed_s = freed or (None, None)
        return Trial(
            cell,
            way,
            runs_on,
            num_steps,
            None if freed_s is None else (freed_s - left_s) * 1e3,
            num_aborts,
            num_beside,
            broken,
        )

    def _caller(self, cell: Cell, way: Way, hold: Hold) -> Caller:
        """Whose text says where to hold it, or the picture or the URL where the text is not read
        by then."""
        letters = "".join(self._rng.choices("ABCDEFGH", k=PROMPT_TOKENS))
        ask = Ask(
            f"{hold.mark} {letters}",
            png(HELD_SIZE, 1_000_000 + hold.number, hold.mark),
            self._house.url(hold) if cell.phase is Phase.FETCH else "",
            cell.is_stream,
            MAX_TOKENS,
        )
        if cell.door.is_grpc:
            half = cell.phase is Phase.UPLOAD
            return grpc_caller(self._house.grpc, cell.door, way, ask, half=half)
        return http_caller(self._house.http, cell.door, way, ask)

    async def _there(self, cell: Cell, hold: Hold, calling: Caller) -> None:
        """Until the request is where it is to be held."""
        if cell.phase is Phase.UPLOAD:
            assert isinstance(calling, Raw)
            await until(lambda: self._house.is_connected(calling.port), COMES_S)
            if not cell.door.is_grpc:
                await until(lambda: bool(self._house.http_door._running), COMES_S)
            await asyncio.sleep(0.02)  # what gRPC has read by then cannot be seen
            return
        await until(lambda: bool(hold.pids), COMES_S)
        if cell.is_stream and cell.phase in {Phase.STEP, Phase.FLUSH}:
            # First tokens may be parts of a character, which say nothing yet.
            with suppress(TimeoutError):
                async with asyncio.timeout(UNHEARD_S):
                    await calling.heard()

    async def _freed(
        self,
        cell: Cell,
        hold: Hold,
        calling: Caller,
        heard_s: float,
        broken: list[str],
    ) -> tuple[int, float] | None:
        """How many steps began between the abort's arrival and the moment in which all was back,
        and that moment; None where that was not so in time."""
        notes, number = self._house.notes, hold.number
        if cell.phase is Phase.UPLOAD:
            is_back = await _soon(lambda: not self._has_upload(calling), heard_s)
            if not is_back:
                broken.append("the door still reads what nobody sends")
            return (0, time.monotonic()) if is_back else None
        abort, freed = ("abort", "back") if cell.phase in IN_FRONT else ("cancel", "gone")
        is_heard = await _soon(lambda: bool(notes.of(abort, number)), heard_s)
        if cell.phase is not Phase.FETCH:  # whose server must see that it is hung up on
            hold.open()
        if not is_heard:
            broken.append("the abort never arrived")
            return None
        if not await _soon(lambda: bool(notes.of(freed, number)), heard_s):
            broken.append("what it held was not given back")
            return None
        (arrived, *_), (back, *_) = notes.of(abort, number), notes.of("back", number)
        gone = notes.of(freed, number)[0]
        freed_s = max(back.at, gone.at)
        self._check(cell, back.facts | gone.facts, broken)
        if cell.phase is Phase.FETCH:
            await self._expect(lambda: bool(notes.of("hung up", number)), "the fetch", broken)
        if cell.phase is Phase.DECODE:
            await self._expect(lambda: not _lives(hold.pids), "the decoder", broken)
        num_steps = notes.num_steps(arrived.at, freed_s)
        if num_steps > MAX_STEPS:
            broken.append(f"{num_steps} steps began until all was back")
        return num_steps, freed_s

    def _has_upload(self, calling: Caller) -> bool:
        """Whether a door still holds something for half a body. A connection whose one call was
        cancelled stays."""
        assert isinstance(calling, Raw)
        is_reading = bool(self._house.http_door._running)
        return is_reading or (calling.is_gone and self._house.is_connected(calling.port))

    async def _expect(self, is_so: Callable[[], bool], what: str, broken: list[str]) -> None:
        if not await _soon(is_so, HEARD_S):
            broken.append(f"{what} went on")

    def _check(self, cell: Cell, facts: dict[str, Any], broken: list[str]) -> None:
        """What was taken in the moment in which all was to be back."""
        num_pixels = HELD_SIZE[0] * HELD_SIZE[1]
        rules = {
            "its permit was still out": facts["inside"] <= cell.num_neighbours,
            "its pixels were still taken": facts["pixels"] < num_pixels,
            "a slot was missing": not facts.get("slots_missing"),
            "pages were missing": not facts.get("pages_missing"),
            "it had a slot": cell.phase is not Phase.QUEUED or not facts["has_begun"],
        }
        broken += [rule for rule, is_kept in rules.items() if not is_kept]

    def _count(self, cell: Cell, hold: Hold, broken: list[str]) -> int:
        """The aborts of a trial: one at the hall, and one at the engine where it knows of it."""
        notes = self._house.notes
        found = {name: len(notes.of(name, hold.number)) for name in ("left", "back", "cancel")}
        is_inside = cell.phase is not Phase.UPLOAD
        is_engines = is_inside and cell.phase not in IN_FRONT
        wanted = {"left": is_inside, "back": is_inside, "cancel": is_engines}
        broken += [
            f"{num} times {name!r}, not {int(wanted[name])}"
            for name, num in found.items()
            if num != wanted[name]
        ]
        if others := len(notes.of("cancel")):
            broken.append(f"{others} neighbours were cancelled")
        return found["left"]


def deaf_doors(house: House, cell: Cell) -> AbstractContextManager[object]:
    """The control: no door hears of a caller who leaves."""
    return house.without_doors(is_grpc=cell.door.is_grpc)


def deaf_wall(house: House, cell: Cell) -> AbstractContextManager[object]:
    """The control: the engine hears of nobody who leaves."""
    del cell
    return house.without_wall()


async def _soon(is_so: Callable[[], bool], within_s: float) -> bool:
    with suppress(TimeoutError):
        await until(is_so, within_s)
    return is_so()


def _lives(pids: Sequence[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)
