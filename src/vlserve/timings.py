"""Where the time of a request goes. `docs/timings.md` says what each stage means."""

import math
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Stage(StrEnum):
    """What a request waits for, each by the name under which callers are told of it."""

    QUEUE = "queue"
    FETCH = "fetch"
    MEDIA_DECODE = "media-decode"
    PREPROCESS = "preprocess"
    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"


# Of Timings.
_FIELDS: Final = {stage: f"{stage.name.lower()}_s" for stage in Stage}


@dataclass(frozen=True, slots=True)
class Timings:
    """What one answer has taken so far, in s: a field for each Stage, and as whoever passes it on
    has seen it the time to its first token and to the piece that this comes with.

    A moment counts for one stage at most: together they are no more than `total_s`. Raises
    ValueError for what is no time.
    """

    queue_s: float = 0.0
    fetch_s: float = 0.0
    media_decode_s: float = 0.0
    preprocess_s: float = 0.0
    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is no time")

    def of(self, stage: Stage) -> float:
        """The time in one stage, s."""
        spent_s: float = getattr(self, _FIELDS[stage])
        return spent_s

    def then(self, later: "Timings") -> "Timings":
        """Both, one after the other, the first token in the later one."""
        return Timings(
            queue_s=self.queue_s + later.queue_s,
            fetch_s=self.fetch_s + later.fetch_s,
            media_decode_s=self.media_decode_s + later.media_decode_s,
            preprocess_s=self.preprocess_s + later.preprocess_s,
            encode_s=self.encode_s + later.encode_s,
            prefill_s=self.prefill_s + later.prefill_s,
            decode_s=self.decode_s + later.decode_s,
            first_token_s=self.total_s + later.first_token_s,
            total_s=self.total_s + later.total_s,
        )


class Stopwatch:
    """Of one answer: which stage it is in, and how long it was in each.

    It runs from when it is made, by a clock of this process that never goes back and says nothing
    to any other process. One thread at a time has it.
    """

    def __init__(self) -> None:
        self._begin_s = self._since_s = time.monotonic()
        self._stage: Stage | None = None
        self._spent_s = dict.fromkeys(Stage, 0.0)
        self._first_token_s: float | None = None

    def enter(self, stage: Stage | None) -> None:
        """From now on time counts for `stage`, None for no one. The first DECODE is the first
        token."""
        now_s = time.monotonic()
        if self._stage is not None:
            self._spent_s[self._stage] += now_s - self._since_s
        self._stage, self._since_s = stage, now_s
        if stage is Stage.DECODE and self._first_token_s is None:
            self._first_token_s = now_s - self._begin_s

    def was(self, stage: Stage, for_s: float) -> None:
        """Of the time since a stage was entered, `for_s` were another's."""
        self._spent_s[stage] += for_s
        self._since_s += for_s

    def timings(self) -> Timings:
        """What it shows."""
        self.enter(self._stage)
        return Timings(
            **{_FIELDS[stage]: spent_s for stage, spent_s in self._spent_s.items()},
            first_token_s=self._first_token_s or 0.0,
            total_s=self._since_s - self._begin_s,
        )
