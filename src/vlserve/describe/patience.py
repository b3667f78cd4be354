"""Answers from a service that may be full, starting or gone for a while."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from vlserve.describe.errors import DescribeError
from vlserve.errors import Code, ServeError

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0
_Answer = TypeVar("_Answer")
_NOT_ITS_FAULT: Final = (Code.OVERLOADED, Code.UNAVAILABLE)
_WORTH_A_SECOND_TRY: Final = (Code.INTERNAL, Code.DEADLINE_EXCEEDED)


class Patience:
    """How a run of many requests waits for its service: as long as it is told to, or a little
    longer each time, and `longest_s` at most from its first silence to the next sign of life.

    `say` is told how many requests do so now.
    """

    def __init__(self, longest_s: float, say: Callable[[str], None]) -> None:
        self._longest_s = longest_s
        self._say = say
        self._silent_since_s: float | None = None
        self._num_waiting = 0

    def sign_of_life(self) -> None:
        """The service has answered, be it with a refusal."""
        self._silent_since_s = None

    async def wait(self, num_times: int, told_s: float | None, why: str) -> None:
        """Returns when it is worth asking again, after `num_times` in a row that it was not.

        Raises DescribeError where there was no sign of life for too long.
        """
        now = time.monotonic()
        if self._silent_since_s is None:
            self._silent_since_s = now
        silent_s = now - self._silent_since_s
        if silent_s > self._longest_s:
            raise DescribeError(
                f"no answer for {silent_s:.0f} s ({why}): the same command goes on from here"
            )
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(num_times, 8))
        pause_s *= random.uniform(0.5, 1.0)  # noqa: S311  so that not all come at once
        self._count(1)
        try:
            await asyncio.sleep(pause_s if told_s is None else told_s)
        finally:
            self._count(-1)

    def _count(self, num_more: int) -> None:
        self._num_waiting += num_more
        waiting = f"{self._num_waiting} waiting for the server"
        self._say(waiting if self._num_waiting else "asking")


async def ask_patiently(ask: Callable[[], Awaitable[_Answer]], patience: Patience) -> _Answer:
    """What `ask` gives, however often that it has to be called.

    Its OVERLOADED and UNAVAILABLE are waited out; INTERNAL and DEADLINE_EXCEEDED are tried once
    more. Raises any other ServeError, and DescribeError when patience ends.
    """
    num_waits = num_failures = 0
    while True:
        try:
            answer = await ask()
        except ServeError as error:
            if error.code in _NOT_ITS_FAULT:
                if error.code is Code.OVERLOADED:  # who says so is there
                    patience.sign_of_life()
                await patience.wait(num_waits, error.retry_after_s, error.message)
                num_waits += 1
                continue
            patience.sign_of_life()
            num_failures += 1
            if error.code not in _WORTH_A_SECOND_TRY or num_failures > 1:
                raise
        else:
            patience.sign_of_life()
            return answer
