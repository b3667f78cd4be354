"""`vlserve describe`: pictures in, a row of text for each of them out, whatever happens between."""

import asyncio
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from vlserve.app import EXAMPLE_QUESTION
from vlserve.describe import output, pictures
from vlserve.describe.ask import COLUMNS, Asked, Asker
from vlserve.describe.connect import connected
from vlserve.describe.journal import Journal
from vlserve.describe.patience import Patience
from vlserve.describe.pictures import Picture
from vlserve.describe.run import Counts, carry_out
from vlserve.describe.show import Bar, failures, summary
from vlserve.settings import MIB, Settings

ALL_ANSWERED: Final = 0
SOME_FAILED: Final = 1
INTERRUPTED: Final = 130
_OUT: Final = Console(highlight=False, soft_wrap=True)
_ERR: Final = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Effort:
    """How a run goes about it: so many requests at a time, so long without a sign of life, what
    failed before again, what was made otherwise anew."""

    num_clients: int
    patience_s: float
    retry_failed: bool
    overwrite: bool


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked about which pictures, of whom, and where the rows go. None: left out."""

    sources: tuple[str, ...]
    output: Path
    question: str | None
    max_tokens: int | None
    recursive: bool
    server: str | None


async def describe(settings: Settings, job: Job, effort: Effort) -> int:
    """Ask about all pictures that have no row yet, then write the output. Returns the exit status.

    SIGINT and SIGTERM end it in order; the same job goes on from there. Raises DescribeError,
    OSError, ServeError and what loading a model raises: also then what was answered is kept.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  this is a coroutine
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    begin_s = time.monotonic()
    try:
        output.check(job.output)
        found = pictures.find(job.sources, recursive=job.recursive)
        counts, failed = await _described(settings, job, effort, found)
    except asyncio.CancelledError:
        _ERR.out("stopped: the same command goes on from here")
        return INTERRUPTED
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    _OUT.out(summary(counts, time.monotonic() - begin_s, job.output))
    if failed:
        _ERR.out(failures(failed, job.output))
    return SOME_FAILED if failed else ALL_ANSWERED


async def _described(
    settings: Settings, job: Job, effort: Effort, found: list[Picture]
) -> tuple[Counts, list[tuple[str, str]]]:
    """What was done, and of each picture that failed its name and why."""
    with Bar(_ERR) as bar:
        async with connected(settings, job.server, bar.say) as connection:
            asked = Asked(
                EXAMPLE_QUESTION if job.question is None else job.question,
                job.max_tokens or settings.limits.default_max_tokens,
                connection.model,
            )
            patience = Patience(effort.patience_s, bar.say)
            asker = Asker(connection, asked, patience, settings.limits.max_message_mib * MIB)
            with Journal.opened(job.output, asdict(asked), overwrite=effort.overwrite) as journal:
                bar.say("asking")
                counts = await carry_out(
                    found,
                    asker.ask,
                    journal,
                    num_clients=effort.num_clients,
                    retry_failed=effort.retry_failed,
                    on_change=bar.show,
                )
                keys = [picture.key for picture in found]
                output.write(job.output, (done.row for done in journal.done(keys)), COLUMNS)
                failed = [done for done in journal.done(keys) if done.has_failed]
    return counts, [(done.key, done.row["error"]) for done in failed]
