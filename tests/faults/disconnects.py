"""Callers leave in every phase of a request: python -m tests.faults.disconnects.

The real doors, hall and wall, the native engine on a tiny model, real sockets. Each cell of
phases, doors and kinds of call is tried again and again (tests/faults/leaving.py), and then once
with the protection off: the doors deaf, or the wall.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.faults import RESULTS, commit
from tests.faults.held import Phase
from tests.faults.held_house import held_house
from tests.faults.leaving import (
    CELLS,
    DEAF,
    TRIED,
    WALLED,
    Cell,
    Matrix,
    Neighbours,
    Trial,
    deaf_doors,
    deaf_wall,
)
from tests.tiny_model import write_tiny_model
from vlserve.doors.grpc.client import GrpcClient


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
