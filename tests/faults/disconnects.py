"""Callers leave in every phase of a request: python -m tests.faults.disconnects.

The real doors, hall and wall, the native engine on a tiny model, real sockets. Each trial holds
one request exactly in a phase, lets its caller leave, and asks: is all that it held back within one
step of the engine after the abort has arrived, was it aborted once, and are the answers of those
who ran beside it the ones that they get alone? Then the same with the protection off: the doors
deaf, or the wall.
"""

import argparse
import asyncio
import io
import json
import os
import platform
import random
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image, PngImagePlugin
from rich.console import Console
from rich.table import Table

from bench.faults import RESULTS, commit
from tests.doors.grpc.live import until
from tests.faults.callers import Ask, Caller, Door, Raw, Way, grpc_caller, http_caller
from tests.faults.held import Hold, Phase
from tests.faults.held_house import MAX_TOKENS, NUM_SLOTS, House, held_house
from tests.tiny_model import write_tiny_model
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
        """How its caller may leave. Of a message of which gRPC has only half nobody can see
        whether it was dropped, but of its connection."""
        if self.door.is_grpc:
            ends = [Way.CLOSE, Way.RESET]
            return ends if self.phase is Phase.UPLOAD else [Way.CANCEL, *ends]
        return list(Way)

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
CELLS = [
    Cell(phase, door, is_stream)
    for phase in Phase
    for door in Door
    for is_stream in ((True,) if door is Door.KSERVE else (False, True))
]
# REST has no stream: KServe's stands in its place.
CELLS = [cell for cell in CELLS if not (cell.door is Door.REST and cell.is_stream)]
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
        assert len(tokens) == MAX_TOKENS
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
            async with asyncio.timeout(COMES_S):
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


def rows(done: Sequence[Trial]) -> list[dict[str, Any]]:
    """What came of each cell."""
    made = []
    for cell in dict.fromkeys(trial.cell for trial in done):
        own = [trial for trial in done if trial.cell == cell]
        times_ms = [trial.freed_ms for trial in own if trial.freed_ms is not None]
        made.append(
            {
                "phase": cell.phase,
                "door": cell.door,
                "kind": "stream" if cell.is_stream else "unary",
                "tried": len(own),
                "held": sum(not trial.broken for trial in own),
                "aborts": sum(trial.num_aborts for trial in own),
                "most_steps": max(
                    (t.num_steps for t in own if t.num_steps is not None), default=None
                ),
                "median_ms": round(median(times_ms), 2) if times_ms else None,
                "most_ms": round(max(times_ms), 2) if times_ms else None,
                "fewest_neighbours": min(trial.num_neighbours for trial in own),
                "run_on": sum(trial.runs_on for trial in own),
                "ways": dict(Counter(trial.way for trial in own)),
                "broken": dict(Counter(rule for trial in own for rule in trial.broken)),
            }
        )
    return made


def table(done: Sequence[Trial], title: str) -> Table:
    """A row for each phase."""
    shown = Table(
        "phase", "tried", "held", "aborts", "most steps", "most ms", "broken", title=title
    )
    for phase in Phase:
        own = [trial for trial in done if trial.cell.phase is phase]
        if own:
            held = sum(not trial.broken for trial in own)
            steps = max((t.num_steps for t in own if t.num_steps is not None), default="")
            most_ms = max((t.freed_ms for t in own if t.freed_ms is not None), default=None)
            broken = Counter(rule for trial in own for rule in trial.broken)
            shown.add_row(
                phase,
                str(len(own)),
                str(held),
                str(sum(trial.num_aborts for trial in own)),
                str(steps),
                "" if most_ms is None else f"{most_ms:.1f}",
                "; ".join(f"{rule} ({num})" for rule, num in broken.items()),
            )
    return shown


@dataclass(frozen=True, slots=True)
class Outcome:
    """All trials: protected, with deaf doors, with a deaf wall."""

    done: list[Trial]
    doors: list[Trial]
    wall: list[Trial]

    @property
    def num_held(self) -> int:
        """Protected trials that held."""
        return sum(not trial.broken for trial in self.done)

    @property
    def num_unfailed(self) -> int:
        """Trials of the controls that held all the same."""
        return sum(not trial.broken for trial in (*self.doors, *self.wall))


@dataclass(frozen=True, slots=True)
class Drawn:
    """What to try: protected, with deaf doors, with a deaf wall."""

    cells: Sequence[Cell]
    deaf: Sequence[Cell]
    walled: Sequence[Cell]


async def tried(drawn: Drawn, seed: int, model: Path, gates: Path) -> Outcome:
    """All of it in one house on the model in a folder; `gates` is another one, and empty."""
    async with held_house(model, gates) as house, GrpcClient(house.grpc, 64) as client:
        neighbours = Neighbours(client)
        await neighbours.start()
        matrix = Matrix(house, neighbours, random.Random(seed))
        return Outcome(
            await matrix.trials(drawn.cells),
            await matrix.trials(drawn.deaf, deaf_doors),
            await matrix.trials(drawn.walled, deaf_wall),
        )


def _all_tried(repeats: int, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        model, gates = Path(folder, "model"), Path(folder, "gates")
        gates.mkdir()
        write_tiny_model(model)
        drawn = Drawn(TRIED * repeats, DEAF, WALLED)
        return asyncio.run(tried(drawn, seed, model, gates))


def main() -> None:
    """The whole matrix, its controls, and the table of both."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.faults.disconnects")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcome = _all_tried(options.repeats, options.seed)
    now = datetime.now().astimezone()
    facts = {
        "date": now.isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "tests.faults.disconnects", *sys.argv[1:]]),
        "commit": commit(),
        "seed": options.seed,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "tried": len(outcome.done),
        "held": outcome.num_held,
        "disconnects_inside": sum(t.cell.phase is not Phase.UPLOAD for t in outcome.done),
        "aborts": sum(trial.num_aborts for trial in outcome.done),
        "most_steps": max(t.num_steps or 0 for t in outcome.done),
        "control_doors_tried": len(outcome.doors),
        "control_doors_failed": sum(bool(trial.broken) for trial in outcome.doors),
        "control_wall_tried": len(outcome.wall),
        "control_wall_failed": sum(bool(trial.broken) for trial in outcome.wall),
        "cannot_be": {str(cell): f"{cell.door} takes no URL" for cell in CELLS if not cell.can_be},
        "rest_stream": "REST has none: KServe's stream stands in its place",
    }
    console = Console(highlight=False, width=140)
    for title, done in (
        ("protected", outcome.done),
        ("deaf doors", outcome.doors),
        ("deaf wall", outcome.wall),
    ):
        console.print(table(done, title))
    for name, fact in facts.items():
        console.print(f"{name}: {fact}")
    report = {
        "facts": facts,
        "cells": rows(outcome.done),
        "control_doors": rows(outcome.doors),
        "control_wall": rows(outcome.wall),
    }
    target = RESULTS / f"disconnects-{now:%Y-%m-%d}.json"
    target.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(outcome.num_held != len(outcome.done) or outcome.num_unfailed > 0)


if __name__ == "__main__":
    main()
