"""From items to an output: what `describe` and `batch` have in common."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.console import Console

from vlserve.describe import output
from vlserve.describe.journal import Done, Journal
from vlserve.describe.patience import Patience
from vlserve.describe.run import Counts, Item, carry_out
from vlserve.describe.show import Bar, failures, summary

ALL_ANSWERED: Final = 0
SOME_FAILED: Final = 1
INTERRUPTED: Final = 130
_OUT: Final = Console(highlight=False, soft_wrap=True)
_ERR: Final = Console(stderr=True, highlight=False, soft_wrap=True)
_Item = TypeVar("_Item", bound=Item)


@dataclass(frozen=True, slots=True)
class Effort:
    """How a run goes about it: so many requests at a time, so long without a sign of life, what
    failed before again, what was made otherwise anew."""

    num_clients: int
    patience_s: float
    retry_failed: bool
    overwrite: bool


class Sitting:
    """One run into one file, with a bar on the terminal."""

    def __init__(self, path: Path, effort: Effort) -> None:
        self._path = path
        self._effort = effort
        self._bar = Bar(_ERR)
        self._counts = Counts(0)
        self._seconds = 0.0
        self._failed: list[tuple[str, str]] = []
        self.patience = Patience(effort.patience_s, self.say)

    def say(self, text: str) -> None:
        """What is being done, for the eye."""
        self._bar.say(text)

    def note(self, text: str) -> None:
        """What stays to be read after the run."""
        _ERR.out(text)

    async def to_the_end(self, work: Coroutine[Any, Any, None]) -> int:
        """Returns the exit status of `work`, in which `write` is called.

        SIGINT and SIGTERM end it in order. What it raises is raised.
        """
        loop = asyncio.get_running_loop()
        working = asyncio.ensure_future(work)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, working.cancel)
        try:
            with self._bar:
                await working
        except asyncio.CancelledError:
            _ERR.out("stopped: the same command goes on from here")
            return INTERRUPTED
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        _OUT.out(summary(self._counts, self._seconds, self._path))
        if self._failed:
            _ERR.out(failures(self._failed, self._path))
        return SOME_FAILED if self._failed else ALL_ANSWERED

    async def write(
        self,
        items: Sequence[_Item],
        do: Callable[[_Item], Awaitable[Done]],
        asked: Mapping[str, Any],
        columns: Mapping[str, type],
    ) -> None:
        """Do what the journal does not know of `items`, then write the rows of all.

        `asked` and `columns` are those of the journal and the output. Raises DescribeError,
        OSError, and what `do` raises: what was done before is kept.
        """
        with Journal.opened(self._path, asked, overwrite=self._effort.overwrite) as journal:
            self._bar.say("asking")
            begin_s = time.monotonic()
            self._counts = await carry_out(
                items,
                do,
                journal,
                num_clients=self._effort.num_clients,
                retry_failed=self._effort.retry_failed,
                on_change=self._bar.show,
            )
            self._seconds = time.monotonic() - begin_s
            keys = [item.key for item in items]
            output.write(self._path, (done.row for done in journal.done(keys)), columns)
            self._failed = [
                (done.key, done.error) for done in journal.done(keys) if done.error is not None
            ]
