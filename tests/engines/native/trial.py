"""One family tried hard: many requests at once, prompts in pieces, known beginnings, room running
out. As a program, on models of 20 to 100 million parameters: python -m tests.engines.native.trial.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.asked import QUESTIONS, request
from tests.engines.collect import Answer, answer, recorded_logits, running
from tests.families import FAMILIES, MEDIUM, write_family
from tests.oracle import Oracle
from vlserve.engines.native.cpu.runner import SlotRunner
from vlserve.engines.native.engine import NativeEngine
from vlserve.engines.native.scheduling import scheduler
from vlserve.engines.native.scheduling.pages import PAGE, num_pages
from vlserve.engines.native.scheduling.scheduler import Scheduler
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.types import Image, Message, Request, Role

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NUM_SLOTS = 5
RESULTS = Path("bench/results")


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it. `bitwise` counts steps whose logits were those of a request alone, whole
    and uncached; then room ran out and answers were computed again, their tokens the same."""

    family: str
    num_parameters: int
    num_pictures: int
    tried: int
    equal: int
    steps: int
    bitwise: int
    chunks: int
    cached_tokens: int
    preempted: int
    equal_after_preemption: int

    @property
    def is_passed(self) -> bool:
        """All equal, and everything that was to be forced has happened."""
        return (
            self.equal == self.equal_after_preemption == self.tried
            and self.bitwise == self.steps
            and min(self.chunks, self.cached_tokens, self.preempted) > 0
        )


def requests(seed: str, count: int) -> list[Request]:
    """Short and long ones; every third asks once more about what was seen before."""
    rng = random.Random(seed)
    made: list[Request] = []
    for index in range(count):
        if index % 3 == 2:
            made.append(replace(rng.choice(made), id=str(index)))
            continue
        asked = request(rng, str(index))
        if index % 2:
            text = " ".join(rng.choices(QUESTIONS, k=12))
            turns: tuple[Message[Image], ...] = (
                Message(Role.USER, (text,)),
                Message(Role.ASSISTANT, ("yes",)),
            )
            rest = tuple(m for m in asked.messages if m.role is not Role.SYSTEM)
            asked = replace(asked, messages=turns + rest)
        made.append(asked)
    return made


def empty_memory(engine: NativeEngine) -> Scheduler:
    """Nothing is known any more."""
    runner = engine._runner
    if isinstance(runner, SlotRunner):
        runner.cache._kept.clear()
    engine._scheduler = Scheduler(runner.max_running, runner.memory(), PAGE)
    return engine._scheduler


def shortened(scheduler: Scheduler) -> Scheduler:
    """Its memory says, now and then, that there is no room for a token more."""
    rng, grow = random.Random(0), scheduler.memory.grow

    def grow_mostly(sequence: Sequence) -> bool:
        return rng.random() > 0.03 and grow(sequence)

    scheduler.memory.grow = grow_mostly  # type: ignore[method-assign]
    return scheduler


async def alone(engine: NativeEngine, asked: list[Request]) -> list[Answer]:
    """One after the other, whole prompts, nothing known."""
    answers = []
    with mock.patch.object(scheduler, "IDLE_STEP_TOKENS", 4096):
        for each in asked:
            empty_memory(engine)
            answers.append(await answer(engine, each))
    return answers


async def crowded(engine: NativeEngine, asked: list[Request]) -> list[Answer]:
    """All of them, staggered, prompts a page at a time."""

    async def late(index: int) -> Answer:
        await asyncio.sleep(index * 0.004)
        return await answer(engine, asked[index])

    with mock.patch.object(scheduler, "IDLE_STEP_TOKENS", PAGE):
        return list(await asyncio.gather(*map(late, range(len(asked)))))


async def tried(family: str, folder: Path, count: int = 18) -> Trial:
    """Try a family on the model in `folder`."""
    asked = requests(family, count)
    oracle = Oracle(folder)
    wanted = [oracle.answer(each.messages, each.sampling) for each in asked]
    async with running(folder, max_running=NUM_SLOTS, cache_mib=64) as engine:
        logits = recorded_logits(engine)
        by_itself = await alone(engine, asked)
        expected = dict(logits)
        logits.clear()
        empty_memory(engine)
        together = await crowded(engine, asked)
        steps = [pair for name in expected for pair in zip(expected[name], logits[name])]  # noqa: B905
        short = shortened(empty_memory(engine))
        squeezed = await crowded(engine, asked)
        assert len(steps) == sum(map(len, expected.values()))
        return Trial(
            family=family,
            num_parameters=engine.info.num_parameters,
            num_pictures=sum(len(list(m.pictures())) for r in asked for m in r.messages),
            tried=count,
            equal=sum(
                a.token_ids == b.token_ids == w
                for a, b, w in zip(by_itself, together, wanted, strict=True)
            ),
            steps=len(steps),
            bitwise=sum(torch.equal(a, b) for a, b in steps),
            chunks=sum(num_pages(a.usage.prompt_tokens) - 1 for a in together),
            cached_tokens=sum(a.usage.cached_tokens for a in together),
            preempted=short.num_preempted,
            equal_after_preemption=sum(
                a.token_ids == w for a, w in zip(squeezed, wanted, strict=True)
            ),
        )


def publish(
    name: str, command: str, trials: Iterable["DataclassInstance"], facts: Mapping[str, str]
) -> None:
    """Print a table of what came of the trials and write it to RESULTS, with date and commit."""
    rows = [asdict(trial) for trial in trials]
    table = Table(title=", ".join(f"{fact} {value}" for fact, value in facts.items()))
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "family" else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)
    now = datetime.now().astimezone()
    commit = subprocess.check_output(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], text=True
    ).strip()
    report = {
        "date": now.isoformat(timespec="seconds"),
        "command": command,
        "commit": commit,
        **facts,
        "seed": "the family's name",
        "trials": rows,
    }
    file = f"{name}-{now:%Y-%m-%d}-transformers-{facts['transformers']}.json"
    (RESULTS / file).write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    """Try every family, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    options = parser.parse_args()
    trials = []
    for family in track(options.families, "families", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_family(family, Path(temporary), MEDIUM)
            trials.append(asyncio.run(tried(family, folder)))
    facts = {"transformers": transformers.__version__, "torch": torch.__version__}
    publish("families", "python -m tests.engines.native.trial", trials, facts)
    sys.exit(not all(trial.is_passed for trial in trials))


if __name__ == "__main__":
    main()
