"""The native engine against `generate`, one request after the other: python -m bench.engine.

Both answer the same requests at the same times of arrival, in turns within one run, on the same
weights. Medians over the rounds.
"""

import argparse
import asyncio
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import matplotlib as mpl
import torch
from rich.console import Console
from rich.table import Table

from bench.contestants import Sequential, Timing, serve_native
from bench.models import without_end
from bench.workload import requests
from vlserve.engines.native.engine import NativeEngine
from vlserve.models.folder import model_folder
from vlserve.settings import EngineSettings, ModelSettings

RESULTS = Path(__file__).parent / "results"
GOAL_THROUGHPUT = 2.5
GOAL_TTFT = 0.2


@dataclass(frozen=True, slots=True)
class Figures:
    """One round, or the medians of several. Times in seconds."""

    tokens_per_s: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    gap_p95_s: float
    longest_s: float


def figures(timings: Sequence[Timing]) -> Figures:
    """The figures of one round."""
    ttft = sorted(timing.ttft_s for timing in timings)
    num_tokens = sum(len(timing.token_ids) for timing in timings)
    return Figures(
        tokens_per_s=num_tokens / max(timing.finished_s for timing in timings),
        ttft_mean_s=statistics.fmean(ttft),
        ttft_p50_s=statistics.median(ttft),
        ttft_p95_s=percentile(ttft, 0.95),
        gap_p95_s=percentile(sorted(timing.longest_gap_s for timing in timings), 0.95),
        longest_s=max(timing.finished_s - timing.arrived_s for timing in timings),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank."""
    return ordered[min(len(ordered) - 1, round(share * len(ordered) + 0.5) - 1)]


def medians(rounds: Sequence[Figures]) -> Figures:
    """Figure by figure."""
    columns = zip(*(asdict(each).values() for each in rounds), strict=True)
    return Figures(*map(statistics.median, columns))


def main() -> None:
    """Measure, print the table, write JSON and a plot."""
    options = parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = model_folder(options.model)
        if not options.until_end:
            without_end(folder, Path(temporary))
            folder = Path(temporary)
        native, sequential, num_threads = asyncio.run(measure(options, folder))
    equal = sum(a.token_ids == b.token_ids for a, b in zip(native[0], sequential[0], strict=True))
    ours, theirs = medians([*map(figures, native)]), medians([*map(figures, sequential)])
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.engine", *sys.argv[1:]]),
        "commit": commit(),
        "seed": options.seed,
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "generate_threads": num_threads,
        "torch": torch.__version__,
        "model": options.model,
        "num_requests": options.requests,
        "num_rounds": options.rounds,
        "interval_s": options.interval,
        "max_running": options.max_running,
        "identical_answers": equal,
        "output_tokens": sum(len(timing.token_ids) for timing in native[0]),
    }
    show(ours, theirs, facts)
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"engine-{datetime.now().astimezone():%Y-%m-%d}"
    report = {
        "facts": facts,
        "native": asdict(ours),
        "sequential": asdict(theirs),
        "rounds": {
            "native": [asdict(figures(each)) for each in native],
            "sequential": [asdict(figures(each)) for each in sequential],
        },
    }
    target.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    plot(native[-1], sequential[-1], ours, theirs, target.with_suffix(".svg"))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.engine")
    parser.add_argument("--model", default="embedded", help="a model folder")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    # Faster than either answers: at 0.05 s the native engine waits for requests to come.
    parser.add_argument("--interval", type=float, default=0.02, help="s between arrivals")
    parser.add_argument(
        "--max-running", type=int, default=EngineSettings().max_running, help="slots of the engine"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--until-end",
        action="store_true",
        help="let answers end where the model ends them, not at their max_tokens",
    )
    return parser.parse_args()


async def measure(
    options: argparse.Namespace, folder: Path
) -> tuple[list[list[Timing]], list[list[Timing]], int]:
    """Rounds in turns, after one of each that does not count.

    `generate` gets whichever was faster in that one: one thread or all.
    """
    sequential = Sequential(folder)
    engine = NativeEngine(
        ModelSettings(path=str(folder)), EngineSettings(max_running=options.max_running)
    )
    await engine.start()
    native_rounds, sequential_rounds = [], []
    rounds = [requests(options.seed + i, options.requests) for i in range(options.rounds + 1)]
    asked = rounds.pop()
    await serve_native(engine, asked, options.interval)
    speeds = {}
    for sequential.num_threads in {1, torch.get_num_threads()}:
        plain = await asyncio.to_thread(sequential.serve, asked, options.interval)
        speeds[sequential.num_threads] = figures(plain).tokens_per_s
    sequential.num_threads = max(speeds, key=lambda threads: speeds[threads])
    # Others in every round: a picture that was seen before costs nothing.
    for asked in rounds:
        native_rounds.append(await serve_native(engine, asked, options.interval))
        plain = await asyncio.to_thread(sequential.serve, asked, options.interval)
        sequential_rounds.append(plain)
    await engine.close()
    return native_rounds, sequential_rounds, sequential.num_threads


def show(ours: Figures, theirs: Figures, facts: dict[str, object]) -> None:
    """The table, with the goals."""
    table = Table(title=f"{facts['num_requests']} requests, {facts['output_tokens']} tokens")
    for column in ("", "native", "generate", "ratio", "goal"):
        table.add_column(column, justify="left" if not column else "right")
    faster = ours.tokens_per_s / theirs.tokens_per_s
    sooner = ours.ttft_p95_s / theirs.ttft_p95_s
    goals = {
        "tokens_per_s": f"{'met' if faster >= GOAL_THROUGHPUT else 'missed'}: {GOAL_THROUGHPUT}",
        "ttft_p95_s": f"{'met' if sooner <= GOAL_TTFT else 'missed'}: {GOAL_TTFT}",
    }
    for name, value in asdict(ours).items():
        other = asdict(theirs)[name]
        ratio = f"{value / other:.3f}"
        table.add_row(name, f"{value:.3f}", f"{other:.3f}", ratio, goals.get(name, ""))
    console = Console()
    console.print(table)
    for name, fact in facts.items():
        console.print(f"{name}: {fact}", highlight=False)


def plot(
    native: Sequence[Timing],
    sequential: Sequence[Timing],
    ours: Figures,
    theirs: Figures,
    target: Path,
) -> None:
    """Every request's wait for its first token, and the throughput."""
    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the backend comes first

    plot, (waits, rates) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(3, 1))
    for timings, label in ((sequential, "generate, one at a time"), (native, "native")):
        ordered = sorted(timings, key=lambda timing: timing.arrived_s)
        waits.plot([t.arrived_s for t in ordered], [t.ttft_s for t in ordered], "o-", label=label)
    waits.set(xlabel="arrival, s", ylabel="time to first token, s", yscale="log")
    waits.legend()
    rates.bar(["generate", "native"], [theirs.tokens_per_s, ours.tokens_per_s], color=["C0", "C1"])
    rates.set(ylabel="output tokens/s")
    plot.tight_layout()
    plot.savefig(target, metadata={"Date": None})


def commit() -> str:
    """The commit that was measured, marked when the files differ from it."""
    run = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


if __name__ == "__main__":
    main()
