"""A closed loop keeps so many in flight, an open loop waits for nobody, failures are counted."""

from itertools import pairwise

import numpy as np
import pytest

from tests.bench.servers import ScriptedTarget
from vlserve.bench.report import report
from vlserve.bench.run import Limit, Outcome, Run
from vlserve.bench.targets import AskFailed
from vlserve.bench.workload import Workload
from vlserve.types import Usage

SMALL = Workload(image_sizes=((16, 16),))


@pytest.mark.parametrize("num_clients", [1, 3, 8])
async def test_a_closed_loop_keeps_so_many_in_flight(num_clients: int) -> None:
    target = ScriptedTarget(first_s=0.01, step_s=0.002)
    run = Run(target, SMALL)
    outcomes = await run.closed_loop(num_clients, Limit(num_requests=5 * num_clients))
    assert [outcome.index for outcome in outcomes] == list(range(5 * num_clients))
    # One is asked as soon as another is answered: never more, and never fewer until the end.
    assert max(target.running_at_begin) == num_clients == run.counts.most_running
    waves = [target.begun_s[i : i + num_clients] for i in range(0, 5 * num_clients, num_clients)]
    assert all(b[0] - a[0] < 0.1 for a, b in pairwise(waves))
    assert target.num_running == 0
    print(f"{len(outcomes)} asked, {run.counts.most_running} in flight")


async def test_a_closed_loop_ends_with_its_duration() -> None:
    target = ScriptedTarget(first_s=0.02)
    outcomes = await Run(target, SMALL).closed_loop(2, Limit(duration_s=0.2))
    assert 8 <= len(outcomes) <= 22
    assert all(outcome.error is None for outcome in outcomes)


async def test_arrivals_wait_for_no_answer() -> None:
    """Forty arrive while nobody is answered; the control is a closed loop, where they cannot."""
    target = ScriptedTarget(first_s=0.6)
    outcomes = await Run(target, SMALL).open_loop(100.0, Limit(num_requests=40))
    gaps = np.random.default_rng([SMALL.seed, 1, 1]).exponential(0.01, 40)
    due_s = np.cumsum(gaps)
    assert np.allclose([outcome.arrived_s for outcome in outcomes], due_s)
    begun = np.array(target.begun_s) - target.begun_s[0] + due_s[0]
    late_s = begun - due_s
    assert target.running_at_begin == list(range(1, 41))
    assert late_s.max() < 0.1
    assert min(outcome.ttft_s for outcome in outcomes) >= 0.6
    closed = ScriptedTarget(first_s=0.01)
    await Run(closed, SMALL).closed_loop(4, Limit(num_requests=40))
    assert max(closed.running_at_begin) == 4
    print(f"40 arrivals, 40 before the first answer, latest by {1000 * late_s.max():.1f} ms")


async def test_a_seed_makes_the_same_arrivals() -> None:
    async def arrivals(seed: int) -> list[float]:
        workload = Workload(image_sizes=(), seed=seed)
        outcomes = await Run(ScriptedTarget(), workload).open_loop(500.0, Limit(duration_s=0.05))
        return [outcome.arrived_s for outcome in outcomes]

    first = await arrivals(1)
    assert len(first) > 5
    assert await arrivals(1) == first
    assert await arrivals(2) != first


async def test_times_are_those_of_the_script() -> None:
    target = ScriptedTarget(num_tokens=6, first_s=0.1, step_s=0.03)
    [outcome] = await Run(target, SMALL).closed_loop(1, Limit(num_requests=1))
    assert outcome.ttft_s == pytest.approx(0.1, abs=0.02)
    assert outcome.time_per_token_s == pytest.approx(0.03, abs=0.01)
    assert outcome.longest_gap_s == pytest.approx(0.03, abs=0.02)
    assert outcome.latency_s == pytest.approx(0.25, abs=0.04)
    assert (outcome.text, outcome.finish_reason) == ("a " * 6, "length")


async def test_every_failure_is_counted_by_its_kind() -> None:
    busy, broken = AskFailed("overloaded", "come later"), AskFailed("http 500", "broke")
    target = ScriptedTarget(fails={2: busy, 5: busy, 7: broken})
    run = Run(target, SMALL)
    outcomes = await run.closed_loop(2, Limit(num_requests=10))
    summary = report(outcomes, run.counts)
    assert summary.errors == {"overloaded": 2, "http 500": 1}
    assert (summary.sent, summary.answered, run.counts.failed) == (10, 7, 3)
    assert summary.output_tokens == 7 * 3


async def test_a_late_answer_and_an_uncounted_one_are_failures() -> None:
    late = Run(ScriptedTarget(first_s=5.0), SMALL, timeout_s=0.05)
    [outcome] = await late.closed_loop(1, Limit(num_requests=1))
    assert (outcome.error, outcome.message) == ("timeout", "not answered in 0.05 s")
    uncounted = Run(ScriptedTarget(counts=False), SMALL)
    [outcome] = await uncounted.closed_loop(1, Limit(num_requests=1))
    assert outcome.error == "no usage"


def test_percentiles_leave_failures_out() -> None:
    def outcome(index: int, error: str | None = None) -> Outcome:
        first = 0.001 * (index + 1)
        return Outcome(
            index, 0.0, (first, first + 1.0), first + 1.0, "", Usage(5, 3, 11), "stop", error
        )

    run = Run(ScriptedTarget(), SMALL)
    summary = report([*map(outcome, range(100)), outcome(9_999, "http 500")], run.counts)
    assert summary.ttft_s is not None
    assert summary.ttft_s.p50 == pytest.approx(0.0505)
    assert summary.ttft_s.p95 == pytest.approx(0.09505)
    assert summary.ttft_s.p99 == pytest.approx(0.09901)
    assert summary.ttft_s.max == pytest.approx(0.1)
    assert summary.time_per_token_s is not None
    assert summary.time_per_token_s.mean == pytest.approx(0.1)
    assert (summary.prompt_tokens, summary.output_tokens) == (500, 1100)
    assert report([], run.counts).ttft_s is None
