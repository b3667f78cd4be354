"""The figures of a run. A request that failed is in none of them but the count of its kind."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from vlserve.bench.run import Counts, Outcome

VERSION: Final = 1  # of the JSON: a field may be added, none changes its meaning


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, percentiles and the largest of a series, in its own unit."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Report:
    """A run in figures. Times in seconds; throughput from the tokens that the server counted,
    over the time from the run's begin to the end of its last answer. A Spread is None where no
    answer has such a figure."""

    seconds: float
    sent: int
    answered: int
    errors: dict[str, int]
    most_running: int
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    requests_per_s: float
    ttft_s: Spread | None
    time_per_token_s: Spread | None
    longest_gap_s: Spread | None
    latency_s: Spread | None


def spread(values: Sequence[float]) -> Spread | None:
    """None for an empty series. Percentiles are interpolated between neighbours."""
    if not values:
        return None
    p50, p90, p95, p99 = map(float, np.percentile(values, (50, 90, 95, 99)))
    return Spread(float(np.mean(values)), p50, p90, p95, p99, max(values))


def report(outcomes: Sequence[Outcome], counts: Counts) -> Report:
    """What the outcomes of a run come to."""
    answered = [outcome for outcome in outcomes if outcome.error is None]
    usages = [outcome.usage for outcome in answered if outcome.usage is not None]
    seconds = max((outcome.ended_s for outcome in outcomes), default=0.0)
    output_tokens = sum(usage.completion_tokens for usage in usages)
    per_token = [outcome.time_per_token_s for outcome in answered]
    return Report(
        seconds=seconds,
        sent=len(outcomes),
        answered=len(answered),
        errors=dict(Counter(outcome.error for outcome in outcomes if outcome.error is not None)),
        most_running=counts.most_running,
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / seconds if seconds else 0.0,
        requests_per_s=len(answered) / seconds if seconds else 0.0,
        ttft_s=spread([outcome.ttft_s for outcome in answered]),
        time_per_token_s=spread([seconds for seconds in per_token if seconds is not None]),
        longest_gap_s=spread([outcome.longest_gap_s for outcome in answered]),
        latency_s=spread([outcome.latency_s for outcome in answered]),
    )


def as_json(summary: Report, outcomes: Sequence[Outcome], facts: dict[str, Any]) -> dict[str, Any]:
    """What `--json` writes: the facts, the figures, and a line a request."""
    return {
        "version": VERSION,
        **facts,
        "figures": asdict(summary),
        "requests": [_line(outcome) for outcome in outcomes],
    }


def _line(outcome: Outcome) -> dict[str, Any]:
    usage = outcome.usage
    return {
        "index": outcome.index,
        "arrived_s": outcome.arrived_s,
        "ttft_s": outcome.ttft_s if outcome.error is None else None,
        "latency_s": outcome.latency_s,
        "time_per_token_s": outcome.time_per_token_s,
        "longest_gap_s": outcome.longest_gap_s,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "output_tokens": usage.completion_tokens if usage else None,
        "finish_reason": outcome.finish_reason,
        "error": outcome.error,
        "message": outcome.message,
    }
