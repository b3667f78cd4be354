"""`vlserve describe` is killed at random moments: python -m bench.describe.

A real server with the embedded model, a folder of drawn pictures, and the command line. The same
folder once without a kill and once with several, each time with a server that has just begun; the
rows of both must be the same, none lost and none twice.
"""

import argparse
import asyncio
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from PIL import Image as PILImage
from rich.console import Console
from rich.table import Table

from bench.faults import commit
from bench.serving import serving
from bench.workload import picture
from vlserve.describe.journal import SUFFIX

RESULTS = Path(__file__).parent / "results"
QUESTION = "Describe the image"
LATEST_S = 0.1  # a kill comes up to so long after the line that it waits for
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a folder came to: `killed_at` are the rows that were known at each kill, `texts` the
    answers by path."""

    killed_at: list[int]
    seconds: float
    num_rows: int
    num_twice: int
    num_lost: int
    num_failed: int
    num_journal_lines_twice: int
    texts: dict[str, str]


def draw_pictures(folder: Path, num: int, seed: int) -> list[str]:
    """So many different pictures: their names."""
    rng = random.Random(seed)
    names = [f"{i:05}.png" for i in range(num)]
    for name in names:
        PILImage.fromarray(picture(rng).pixels).save(folder / name)
    return names


async def described(
    folder: Path, names: Sequence[str], output: Path, address: str, *, num_kills: int, seed: int
) -> Outcome:
    """Run the command until it ends by itself, and kill it before that at random moments."""
    rng = random.Random(seed)
    part = len(names) * 9 // 10 // max(1, num_kills)  # one in each, and none too late to strike
    moments = [i * part + rng.randrange(part) for i in range(num_kills)]
    journal = output.with_name(output.name + SUFFIX)
    killed_at = []
    begin_s = time.monotonic()
    for moment in [*moments, None]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vlserve", "describe", str(folder), "--out", str(output)),
            *("--server", address, "--question", QUESTION),
            stdout=asyncio.subprocess.DEVNULL,
        )
        if moment is not None:
            while process.returncode is None and num_done(journal) < moment:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
            await asyncio.sleep(rng.uniform(0, LATEST_S))
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            killed_at.append(num_done(journal))
        await process.wait()
    return _outcome(killed_at, time.monotonic() - begin_s, names, output, journal)


def _outcome(
    killed_at: list[int], seconds: float, names: Sequence[str], output: Path, journal: Path
) -> Outcome:
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    journalled = [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:]]
    return Outcome(
        killed_at,
        seconds,
        num_rows=len(rows),
        num_twice=_num_twice([row["path"] for row in rows]),
        num_lost=len(set(names) - {row["path"] for row in rows}),
        num_failed=sum(row["error"] is not None for row in rows),
        num_journal_lines_twice=_num_twice(journalled),
        texts={row["path"]: row["text"] for row in rows},
    )


def num_done(journal: Path) -> int:
    """How many items a journal knows."""
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def _num_twice(names: Sequence[str]) -> int:
    return sum(count - 1 for count in Counter(names).values())


def broken(unbroken: Outcome, outcome: Outcome, num: int, num_kills: int) -> list[str]:
    """The promises that `outcome` does not keep."""
    rules = {
        f"there are {num} rows": outcome.num_rows == num,
        "no row is there twice": outcome.num_twice == 0,
        "none is lost": outcome.num_lost == 0,
        "none has failed": outcome.num_failed == 0,
        "nothing was written into the journal twice": outcome.num_journal_lines_twice == 0,
        "the texts are those of the unbroken run": outcome.texts == unbroken.texts,
        "it was killed while it ran": len([n for n in outcome.killed_at if n < num]) == num_kills,
    }
    return [rule for rule, is_kept in rules.items() if not is_kept]


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row a run."""
    columns = ("killed at row", "seconds", "rows", "twice", "lost", "failed")
    shown = Table(*columns)
    for each in outcomes:
        killed = ", ".join(map(str, each.killed_at)) or "never"
        counts = (each.num_rows, each.num_twice, each.num_lost, each.num_failed)
        shown.add_row(killed, f"{each.seconds:.1f}", *map(str, counts))
    return shown


async def measure(options: argparse.Namespace) -> list[Outcome]:
    """The unbroken runs and the killed ones by turns."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        names = draw_pictures(pictures, options.pictures, options.seed)
        for i in range(options.rounds):
            for num_kills in (0, options.kills):
                output = Path(folder) / f"{i}-{num_kills}.jsonl"
                async with serving() as server:
                    outcomes.append(
                        await described(
                            *(pictures, names, output, server.grpc),
                            num_kills=num_kills,
                            seed=options.seed + i,
                        )
                    )
                print(f"{num_kills} kills: {outcomes[-1].seconds:.1f} s", file=sys.stderr)
    return outcomes


def main() -> None:
    """Run, print the table, write JSON; exit status 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.describe")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes = asyncio.run(measure(options))
    failed = {
        i: wrong
        for i, each in enumerate(outcomes)
        if (wrong := broken(outcomes[0], each, options.pictures, i % 2 * options.kills))
    }
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.describe", *sys.argv[1:]]),
        "commit": commit(),
        "seed": options.seed,
        "cores": os.cpu_count(),
        "pictures": options.pictures,
        "tried": len(outcomes),
        "held": len(outcomes) - len(failed),
        "broken": failed,
    }
    console = Console(highlight=False, width=110)
    console.print(table(outcomes))
    for name, fact in facts.items():
        console.print(f"{name}: {fact}")
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"describe-{datetime.now().astimezone():%Y-%m-%d}.json"
    runs = [asdict(each) for each in outcomes]
    for run in runs:
        del run["texts"]
    target.write_text(json.dumps({"facts": facts, "runs": runs}, indent=1) + "\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
