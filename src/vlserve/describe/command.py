"""`vlserve describe`: pictures in, a row of text for each of them out, whatever happens between."""

from dataclasses import asdict, dataclass
from pathlib import Path

from vlserve import example
from vlserve.describe import output, pictures
from vlserve.describe.ask import COLUMNS, Asker, Question
from vlserve.describe.connect import connected
from vlserve.describe.pictures import Picture
from vlserve.describe.sitting import Effort, Sitting
from vlserve.settings import MIB, Settings
from vlserve.types import Detail


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked about which pictures, of whom, and where the rows go. None: left out."""

    sources: tuple[str, ...]
    output: Path
    question: str | None
    detail: Detail
    max_tokens: int | None
    recursive: bool
    server: str | None


async def describe(settings: Settings, job: Job, effort: Effort) -> int:
    """Ask about all pictures that have no row yet, then write the output. Returns the exit status.

    SIGINT and SIGTERM end it in order; the same job goes on from there. Raises DescribeError,
    OSError, ServeError and what loading a model raises: also then what was answered is kept.
    """
    output.check(job.output, output.SUFFIXES)
    found = pictures.find(job.sources, recursive=job.recursive)
    sitting = Sitting(job.output, effort)
    status = await sitting.to_the_end(_described(settings, job, found.pictures, sitting))
    if found.left_out:
        sitting.note(f"left out, no pictures by their names: {pictures.in_words(found.left_out)}")
    return status


async def _described(settings: Settings, job: Job, found: list[Picture], sitting: Sitting) -> None:
    async with connected(settings, job.server, sitting.say) as connection:
        asked = Question(
            example.QUESTION if job.question is None else job.question,
            job.detail,
            job.max_tokens or settings.limits.default_max_tokens,
            connection.model,
        )
        max_bytes = settings.limits.max_message_mib * MIB
        asker = Asker(connection, asked, sitting.patience, max_bytes)
        told = asdict(asked) | {"detail": asked.detail.value}
        await sitting.write(found, asker.ask, told, COLUMNS)
