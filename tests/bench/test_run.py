"""A closed loop keeps so many in flight, an open loop waits for nobody, failures are counted."""

import asyncio

import numpy as np
import pytest

from tests.bench.servers import ScriptedTarget
from tests.waiting import until
from vlserve.bench.report import report
from vlserve.bench.run import Limit, Outcome, Run
from vlserve.bench.targets import AskFailed
from vlserve.bench.workload import Workload
from vlserve.types import Usage

SMALL = Workload(image_sizes=((16, 16),))


@pytest.mark.parametrize("num_clients", [1, 3, 8])
async def test_a_closed_loop_keeps_so_many_in_flight(num_clients: int) -> None:
    target = ScriptedTarget(gate=asyncio.Semaphore(0))
    run = Run(target, SMALL)
    total = 5 * num_clients
    loop = asyncio.create_task(run.closed_loop(num_clients, Limit(num_requests=total)))
    for answered in range(total - num_clients + 1):
        # One more is asked as soon as one is answered: never fewer under way, and never more.
        await until(lambda asked=answered + num_clients: len(target.asked) == asked)  # type: ignore[misc]
        await asyncio.sleep(0.005)
        assert (len(target.asked), target.num_running) == (answered + num_clients, num_clients)
        target.release(1)
    target.release(num_clients)
    outcomes = await loop
    assert [outcome.index for outcome in outcomes] == list(range(total))
    assert run.counts.most_running == num_clients
    assert target.num_running == 0
    print(f"{len(outcomes)} asked, {num_clients} in flight at each of {total - num_clients} ends")


async def test_a_closed_loop_ends_with_its_duration() -> None:
    target = ScriptedTarget(first_s=0.02)
    outcomes = await Run(target, SMALL).closed_loop(2, Limit(duration_s=0.2))
    assert 2 <= len(outcomes) <= 22
    assert all(outcome.error is None for outcome in outcomes)


async def test_arrivals_wait_for_no_answer() -> None:
    """Forty arrive while nobody is answered; the control is a closed loop, where they cannot."""
    target = ScriptedTarget(gate=asyncio.Semaphore(0))
    loop = asyncio.create_task(Run(target, SMALL).open_loop(100.0, Limit(num_requests=40)))
    await until(lambda: len(target.asked) == 40, 10.0)
    assert target.num_running == 40
    target.release(40)
    outcomes = await loop
    due_s = np.cumsum(np.random.default_rng([SMALL.seed, 1, 1]).exponential(0.01, 40))
    assert np.allclose([outcome.arrived_s for outcome in outcomes], due_s)
    late_s = np.array(target.begun_s) - target.begun_s[0] - (due_s - due_s[0])
    assert late_s.max() < 1.0
    # Whoever arrived first waited longest, and all of it is in the figures.
    assert outcomes[0].ttft_s > due_s[-1] - due_s[0]
    closed = ScriptedTarget(gate=asyncio.Semaphore(0))
    loop = asyncio.create_task(Run(closed, SMALL).closed_loop(4, Limit(num_requests=40)))
    await until(lambda: len(closed.asked) == 4)
    await asyncio.sleep(0.1)
    assert len(closed.asked) == 4
    closed.release(40)
    await loop
    print(f"40 arrivals before the first answer, latest by {1000 * late_s.max():.1f} ms")


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
    """Lower bounds are exact; a busy machine may add to each."""
    target = ScriptedTarget(num_tokens=6, first_s=0.1, step_s=0.1)
    [outcome] = await Run(target, SMALL).closed_loop(1, Limit(num_requests=1))
    assert 0.1 <= outcome.ttft_s < 0.4
    assert outcome.time_per_token_s is not None
    assert 0.1 <= outcome.time_per_token_s < 0.2
    assert 0.1 <= outcome.longest_gap_s < 0.4
    assert 0.6 <= outcome.latency_s < 1.4
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
