"""What must be true of any answer's timings, whatever it went through."""

from collections.abc import Callable, Iterable

import pytest

from vlserve.engines.base import Begun
from vlserve.timings import Stage, Stopwatch, Timings
from vlserve.types import Chunk

ROUNDING_S = 1e-6


def check(timings: Timings) -> None:
    """No stage is below nothing, and together they are no more than the whole."""
    stages_s = {stage: timings.of(stage) for stage in Stage}
    assert min(stages_s.values()) >= 0, timings
    assert sum(stages_s.values()) <= timings.total_s + ROUNDING_S, timings
    assert timings.first_token_s <= timings.total_s + ROUNDING_S, timings


def told(items: Iterable[Chunk | Begun]) -> tuple[Timings, Timings]:
    """What came with the first token of an answer and with its last piece, both checked: they are
    with no other piece."""
    chunks = [item for item in items if isinstance(item, Chunk)]
    timed = [chunk for chunk in chunks if chunk.timings is not None]
    with_token = next(chunk for chunk in chunks if chunk.token_ids or chunk.finish_reason)
    wanted = [with_token] if with_token is chunks[-1] else [with_token, chunks[-1]]
    assert timed == wanted, timed
    first, last = timed[0].timings, timed[-1].timings
    assert first is not None
    assert last is not None
    check(first)
    check(last)
    # After its first token an answer is decoded, or waits for a place that it has lost.
    for stage in Stage:
        is_over = stage not in (Stage.DECODE, Stage.QUEUE)
        same = last.of(stage) == first.of(stage)
        assert same if is_over else last.of(stage) >= first.of(stage), (stage, first, last)
    assert first.first_token_s == last.first_token_s > 0
    return first, last


def check_only(timings: Timings, stage: Stage, least_s: float) -> None:
    """One stage took as long, and none of the others half of it."""
    check(timings)
    assert timings.of(stage) >= least_s, (stage, timings)
    others_s = {other: timings.of(other) for other in Stage if other is not stage}
    assert max(others_s.values()) < least_s / 2, (stage, timings)


def misattribute(monkeypatch: pytest.MonkeyPatch, stage: Stage, other: Stage) -> None:
    """What is one stage's counts as another's from now on, in this process."""
    enter, was = Stopwatch.enter, Stopwatch.was

    def swapped(real: Callable[..., None]) -> Callable[..., None]:
        def call(self: Stopwatch, which: Stage | None, *rest: float) -> None:
            real(self, other if which is stage else which, *rest)

        return call

    monkeypatch.setattr(Stopwatch, "enter", swapped(enter))
    monkeypatch.setattr(Stopwatch, "was", swapped(was))
