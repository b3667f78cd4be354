"""A run for the eye: a table for a terminal, a plot for a page."""

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vlserve.bench.report import Report, Spread
from vlserve.bench.run import Outcome

SERIES = {
    "time to first token": "ttft_s",
    "time per token": "time_per_token_s",
    "longest gap": "longest_gap_s",
    "end to end": "latency_s",
}


def table(report: Report, outcomes: Sequence[Outcome]) -> RenderableType:
    """The figures, times in milliseconds, and failures above everything else."""
    times = Table(box=None, pad_edge=False)
    times.add_column("ms")
    for field in fields(Spread):
        times.add_column(field.name, justify="right")
    for name, attribute in SERIES.items():
        series: Spread | None = getattr(report, attribute)
        cells = [f"{1000 * value:.1f}" for value in astuple(series)] if series else ["-"] * 6
        times.add_row(name, *cells)
    head = Text(
        f"{report.answered} of {report.sent} answered in {report.seconds:.2f} s, "
        f"{report.most_running} at a time at most\n"
        f"{report.output_tokens_per_s:.1f} output tokens/s, {report.requests_per_s:.2f} requests/s "
        f"({report.prompt_tokens} prompt tokens, {report.output_tokens} output tokens)"
    )
    return Group(*_failures(report, outcomes), head, times)


def _failures(report: Report, outcomes: Sequence[Outcome]) -> list[RenderableType]:
    if not report.errors:
        return []
    failed = sum(report.errors.values())
    lines = [f"FAILED: {failed} of {report.sent} requests. The figures leave them out."]
    for kind, number in report.errors.items():
        example = next(outcome.message for outcome in outcomes if outcome.error == kind)
        lines.append(f"  {number} x {kind}: {example}")
    return [Text("\n".join(lines), style="bold red")]


def plot(outcomes: Sequence[Outcome], target: Path) -> None:
    """Time to first token over arrival, and how latencies are spread: SVG, PNG or PDF.

    Raises ValueError for a name whose ending is no format that can be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - of the extra `bench`

    answered = [outcome for outcome in outcomes if outcome.error is None]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    figure = Figure(figsize=(9, 3.4), layout="tight")
    waits, shares = figure.subplots(1, 2)
    arrivals = [outcome.arrived_s for outcome in answered]
    waits.plot(arrivals, [outcome.ttft_s for outcome in answered], ".", label="answered")
    if failed:
        waits.plot([outcome.arrived_s for outcome in failed], [0.0] * len(failed), "rx")
        waits.plot([], [], "rx", label=f"{len(failed)} failed")
        waits.legend()
    waits.set(xlabel="arrival, s", ylabel="time to first token, s", ylim=(0, None))
    if answered:
        shares.ecdf([outcome.ttft_s for outcome in answered], label="first token")
        shares.ecdf([outcome.latency_s for outcome in answered], label="whole answer")
        shares.legend()
    shares.set(xlabel="s from arrival", ylabel="share of requests", xlim=(0, None))
    options = {"Date": None} if target.suffix == ".svg" else {}
    figure.savefig(target, metadata=options)
