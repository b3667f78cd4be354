"""The same weights behind every server at hand, side by side: python -m bench.peers.

All servers are up through the whole run and asked in turns by one load generator, the one of
`vlserve bench`. In every cell all of them get the same requests, which no cell before it had.
Medians over the rounds.
"""

import argparse
import asyncio
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from bench import peer_report
from bench.models import MODELS
from bench.peer_list import LLAMA, PEERS, SEQUENTIAL, VLSERVE, Peer
from bench.peer_process import NotReady, Running
from vlserve.bench.report import Report, report
from vlserve.bench.run import Limit, Outcome, Run
from vlserve.bench.workload import Workload

RESULTS: Final = Path(__file__).parent / "results"
CURVE: Final = (1, 2, 4, 8, 16, 32, 64)
TRIAL_CLIENTS: Final = 8
MIN_REQUESTS: Final = 4
# So many that a cell takes some seconds with the slowest.
REQUESTS_PER_CLIENT: Final = {"embedded": 8, "small": 2}
# How much faster than sequential `generate` can answer requests arrive, unless told.
OVERLOAD: Final = 2.0
# Two seeds further apart than any run has cells.
SEED_STRIDE: Final = 10_000


@dataclass
class Cell:
    """One peer under one load in one round. `as_asked` answers have as many tokens as were asked
    for."""

    peer: str
    load: str
    figures: Report
    texts: dict[int, str]
    as_asked: int


@dataclass
class Measured:
    """What a run with one model came to. `states` says of each peer what became of it."""

    model: str
    states: dict[str, str] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    curve: list[Cell] = field(default_factory=list)
    rate: float | None = None


class Session:
    """The peers that are up, and the requests that they are given."""

    def __init__(self, options: argparse.Namespace, model: str, progress: Progress) -> None:
        self._options = options
        self._folder = MODELS[model]()
        self._progress = progress
        self._running: dict[str, Running] = {}
        self._num_cells = 0
        self.measured = Measured(model)

    async def run(self) -> Measured:
        """Everything, in order. Servers are ended whatever happens."""
        try:
            for key in self._options.peers:
                await self._start(PEERS[key])
            await self._closed_loops()
            await self._arrivals()
            await self._curve()
        finally:
            for running in self._running.values():
                running.stop()
        return self.measured

    async def _start(self, peer: Peer) -> None:
        """The peer with as many threads as it is fastest with, tried once."""
        if missing := peer.missing():
            self.measured.states[peer.name] = f"not installed: {missing}"
            return
        self._say(f"starting {peer.name}")
        best, best_speed = None, 0.0
        choices = self._options.threads
        workload = self._workload()
        for threads in choices:
            running = Running(peer, self._folder, threads)
            try:
                await running.ready(workload)
                speed = 1.0
                if len(choices) > 1:
                    limit = Limit(num_requests=TRIAL_CLIENTS)
                    trial = await self._closed(running, "trial", workload, TRIAL_CLIENTS, limit)
                    speed = trial.figures.output_tokens_per_s
            except NotReady as error:
                self.measured.states[peer.name] = f"did not start: {error}"
                running.stop()
                continue
            except BaseException:
                running.stop()
                raise
            if best is None or speed > best_speed:
                best, loser, best_speed = running, best, speed
            else:
                loser = running
            if loser is not None:
                loser.stop()
        if best is not None:
            self._running[peer.name] = best
            self.measured.states[peer.name] = "ran"
            self.measured.threads[peer.name] = best.threads

    async def _closed_loops(self) -> None:
        options = self._options
        total = options.rounds * len(options.clients) * len(self._running)
        bar = self._progress.add_task(f"{self.measured.model}: closed loop", total=total)
        for number in range(options.rounds):
            for clients in options.clients:
                workload = self._workload()
                limit = Limit(self._num_requests(clients))
                for running in self._turns(number):
                    load = peer_report.closed(clients)
                    self._say(f"{running.peer.name}, {load}")
                    self._keep(await self._closed(running, load, workload, clients, limit))
                    self._progress.advance(bar)

    async def _arrivals(self) -> None:
        options = self._options
        self.measured.rate = rate = options.rate or self._rate()
        if not options.arrivals or rate is None:
            return
        total = options.rounds * len(self._running)
        bar = self._progress.add_task(f"{self.measured.model}: arrivals", total=total)
        for number in range(options.rounds):
            workload = self._workload()
            for running in self._turns(number):
                self._say(f"{running.peer.name}, {rate:.2f} arrivals a second")
                async with running.peer.connect(running.port, running.folder) as target:
                    run = Run(target, workload)
                    outcomes = await run.open_loop(rate, Limit(options.arrivals))
                self._keep(_cell(running.peer, "arrivals", outcomes, run, workload))
                self._progress.advance(bar)

    async def _curve(self) -> None:
        """vlserve alone, at more and more clients."""
        running = self._running.get(VLSERVE)
        if running is None or not self._options.curve:
            return
        bar = self._progress.add_task(f"{self.measured.model}: curve", total=len(CURVE))
        for clients in CURVE:
            limit = Limit(self._num_requests(clients))
            cell = await self._closed(running, f"{clients}", self._workload(), clients, limit)
            self.measured.curve.append(cell)
            self._progress.advance(bar)

    async def _closed(
        self, running: Running, load: str, workload: Workload, clients: int, limit: Limit
    ) -> Cell:
        async with running.peer.connect(running.port, running.folder) as target:
            run = Run(target, workload)
            outcomes = await run.closed_loop(clients, limit)
            return _cell(running.peer, load, outcomes, run, workload)

    def _turns(self, number: int) -> list[Running]:
        """Who comes when: in every round another one is first."""
        order = list(self._running.values())
        first = number % max(1, len(order))
        return order[first:] + order[:first]

    def _workload(self) -> Workload:
        """Requests that nobody has seen."""
        options = self._options
        self._num_cells += 1
        width, _, height = options.image.partition("x")
        return Workload(
            image_sizes=((int(width), int(height)),),
            max_tokens=options.max_tokens,
            least_tokens=options.least_tokens,
            ignore_eos=False,  # the models have no end
            seed=options.seed * SEED_STRIDE + self._num_cells,
        )

    def _num_requests(self, clients: int) -> int:
        """Of a closed loop."""
        each = self._options.requests_per_client or REQUESTS_PER_CLIENT[self.measured.model]
        return max(MIN_REQUESTS, each * clients)

    def _rate(self) -> float | None:
        """Arrivals a second that overload sequential `generate`, None where it was not measured."""
        speeds = [
            cell.figures.requests_per_s for cell in self.measured.cells if cell.peer == SEQUENTIAL
        ]
        return OVERLOAD * max(speeds) if speeds else None

    def _keep(self, cell: Cell) -> None:
        self.measured.cells.append(cell)
        if cell.figures.errors:
            errors = ", ".join(f"{n} x {kind}" for kind, n in cell.figures.errors.items())
            self.measured.states[cell.peer] = f"failed requests: {errors}, at {cell.load}"

    def _say(self, text: str) -> None:
        self._progress.console.print(
            f"{time.strftime('%H:%M:%S')} {self.measured.model}: {text}", highlight=False
        )


def _cell(peer: Peer, load: str, outcomes: list[Outcome], run: Run, workload: Workload) -> Cell:
    as_asked = sum(
        outcome.usage.completion_tokens == workload.request(outcome.index).sampling.max_tokens
        for outcome in outcomes
        if outcome.usage
    )
    # mistral.rs leaves the first space that others take off.
    texts = {outcome.index: outcome.text.lstrip() for outcome in outcomes}
    return Cell(peer.name, load, report(outcomes, run.counts), texts, as_asked)


def same_texts(measured: Measured) -> dict[str, tuple[int, int]]:
    """Of each peer, how many of its answers are letter by letter those of `generate` (or of
    vlserve where that was not measured), and of how many. Not of who was asked something else."""
    names = {cell.peer for cell in measured.cells}
    reference = SEQUENTIAL if SEQUENTIAL in names else VLSERVE
    wanted: dict[tuple[str, int], list[dict[int, str]]] = {}
    rounds: dict[tuple[str, str], int] = {}
    found: dict[str, tuple[int, int]] = {}
    numbered = []
    for cell in measured.cells:
        number = rounds[cell.peer, cell.load] = rounds.get((cell.peer, cell.load), 0) + 1
        numbered.append((cell, number))
        if cell.peer == reference:
            wanted.setdefault((cell.load, number), []).append(cell.texts)
    for cell, number in numbered:
        if cell.peer in (reference, LLAMA):
            continue
        for texts in wanted.get((cell.load, number), []):
            same = sum(texts.get(index) == text for index, text in cell.texts.items())
            before = found.get(cell.peer, (0, 0))
            found[cell.peer] = (before[0] + same, before[1] + len(cell.texts))
    return found


def main() -> None:
    """Measure, print, write JSON and a plot. Ends with status 1 where a peer failed."""
    options = parse()
    console = Console()
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as bar:
        measured = [asyncio.run(Session(options, name, bar).run()) for name in options.model]
    result = {"facts": facts(options), "models": [as_json(one) for one in measured]}
    console.print(*peer_report.tables(result), sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"peers-{datetime.now().astimezone():%Y-%m-%d}"
    target.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    peer_report.plot(result, target.with_suffix(".svg"))
    console.print(f"written: {target}.json, {target}.svg", highlight=False)
    states = [state for one in measured for state in one.states.values()]
    if any(not state.startswith(("ran", "not installed")) for state in states):
        console.print("[bold red]a peer failed: see its state above[/]")
        sys.exit(1)


def as_json(measured: Measured) -> dict[str, Any]:
    """A model's part of the results."""
    same = same_texts(measured)
    return {
        "model": measured.model,
        "peers": [
            {
                "name": peer.name,
                "state": measured.states[peer.name],
                "version": peer.version,
                "note": peer.note,
                "threads": measured.threads.get(peer.name),
                "answers_as_generate": same.get(peer.name),
                "lengths_as_asked": [
                    sum(cell.as_asked for cell in measured.cells if cell.peer == peer.name),
                    sum(len(cell.texts) for cell in measured.cells if cell.peer == peer.name),
                ],
            }
            for peer in PEERS.values()
            if peer.name in measured.states
        ],
        "arrivals_per_s": measured.rate,
        "cells": [
            {"peer": cell.peer, "load": cell.load, "figures": asdict(cell.figures)}
            for cell in measured.cells
        ],
        "curve": [
            {"clients": int(cell.load), "figures": asdict(cell.figures)} for cell in measured.curve
        ],
    }


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """Where, when and of what the results are."""
    run = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(run, check=False, capture_output=True, text=True).stdout.strip()  # noqa: S603
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.peers", *sys.argv[1:]]),
        "commit": commit,
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "rounds": options.rounds,
        "clients": options.clients,
        "requests_per_client": {
            model: options.requests_per_client or REQUESTS_PER_CLIENT[model]
            for model in options.model
        },
        "tokens": [options.least_tokens, options.max_tokens],
        "image": options.image,
        "arrivals": options.arrivals,
        "seed": options.seed,
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.peers")
    parser.add_argument("--model", type=_names(MODELS), default=list(MODELS), help="of all")
    parser.add_argument("--peers", type=_names(PEERS), default=list(PEERS), help="a,b of all")
    parser.add_argument("--clients", type=_numbers, default=[1, 8, 32], help="closed loop: 1,8,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests-per-client", type=int, help=f"{REQUESTS_PER_CLIENT}")
    parser.add_argument("--least-tokens", type=int, default=8, help="an answer's, by chance from")
    parser.add_argument("--max-tokens", type=int, default=64, help="an answer's, by chance up to")
    parser.add_argument("--image", default="320x240", help="a fresh one in every request")
    parser.add_argument("--arrivals", type=int, default=32, help="open loop requests; 0: none")
    parser.add_argument("--rate", type=float, help="arrivals a second; twice what generate answers")
    parser.add_argument("--curve", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=_numbers, default=[1, 2], help="the better of these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _names(known: dict[str, Any]) -> Any:
    def names(text: str) -> list[str]:
        wrong = set(text.split(",")) - set(known)
        if wrong:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(wrong))}: none of {list(known)}")
        return text.split(",")

    return names


if __name__ == "__main__":
    main()
