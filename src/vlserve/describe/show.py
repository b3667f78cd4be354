"""A run for the eye: a bar while it goes, and what is said of it at its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vlserve.describe.run import Counts

SHOWN_FAILURES: Final = 20


class _RateColumn(ProgressColumn):
    """Items a second, of late."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s", style="progress.data.speed")


class Bar:
    """How far a run is, while its context lasts. Nothing where `console` is no terminal."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn())
        text = TextColumn("{task.description}")
        self._progress = Progress(text, *columns, console=console, transient=True)
        self._task = self._progress.add_task("connecting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """What is being done."""
        self._progress.update(self._task, description=text)

    def show(self, counts: Counts) -> None:
        """How far it is."""
        self._progress.update(self._task, total=counts.total, completed=counts.done)


def summary(counts: Counts, seconds: float, output: Path) -> str:
    """One line: how many of what, and how fast."""
    said = [f"{counts.total} in all", f"{counts.answered} answered"]
    if counts.known:
        said.append(f"{counts.known} known")
    said.append(f"{counts.failed} failed")
    return f"{', '.join(said)}; {seconds:.1f} s, {counts.asked / seconds:.1f}/s; {output}"


def failures(found: Sequence[tuple[str, str]], output: Path) -> str:
    """The first of those that failed, each with its reason."""
    lines = [f"{name}: {why}" for name, why in found[:SHOWN_FAILURES]]
    if len(found) > SHOWN_FAILURES:
        lines.append(f"and {len(found) - SHOWN_FAILURES} more, all in {output}")
    lines.append("the same command with --retry-failed asks about them again")
    return "\n".join(lines)
