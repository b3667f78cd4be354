"""Peers side by side, as tables for a terminal, a plot, and a page of the docs.

python -m bench.peer_report bench/results/peers-DATE.json docs/peers.md
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.table import Table

from bench.peer_list import LITSERVE, LLAMA, MISTRAL, SEQUENTIAL, TRANSFORMERS, VLSERVE

ARRIVALS: Final = "arrivals"
NOTHING: Final = "-"


def closed(clients: int) -> str:
    """The name of the load that so many clients make who each wait for their answer."""
    return f"{clients} client" if clients == 1 else f"{clients} clients"


@dataclass(frozen=True, slots=True)
class Goal:
    """What vlserve's figure is to be of a peer's: `at_least` or `at_most` so many times it."""

    peer: str
    load: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def text(self) -> str:
        """For people."""
        if self.at_most is not None:
            return f"p95 time to first token, {self.load}: at most {self.at_most:g} x {self.peer}"
        wanted = f"at least {self.at_least:g} x" if self.at_least is not None else "ratio to"
        return f"output tokens/s, {self.load}: {wanted} {self.peer}"

    def verdict(self, model: dict[str, Any]) -> tuple[float | None, str]:
        """The ratio, and `met`, `missed`, `-` for a ratio without a goal, or `not measured`."""
        if self.at_most is not None:
            ours, theirs = first_token_p95(model, VLSERVE), first_token_p95(model, self.peer)
        else:
            ours, theirs = speed(model, VLSERVE, self.load), speed(model, self.peer, self.load)
        if not ours or not theirs:
            return None, "not measured"
        ratio = ours / theirs
        if self.at_least is None and self.at_most is None:
            return ratio, NOTHING
        is_met = ratio <= self.at_most if self.at_most is not None else ratio >= self.at_least  # type: ignore[operator]
        return ratio, "met" if is_met else "missed"


GOALS: Final = (
    Goal(SEQUENTIAL, closed(32), at_least=4),
    Goal(TRANSFORMERS, closed(32), at_least=4),
    Goal(LITSERVE, closed(32), at_least=2),
    Goal(MISTRAL, closed(1), at_least=1),
    Goal(LLAMA, closed(1)),
    Goal(LLAMA, closed(8)),
    Goal(LLAMA, closed(32)),
    Goal(SEQUENTIAL, ARRIVALS, at_most=0.1),
)


def speed(model: dict[str, Any], peer: str, load: str) -> float | None:
    """The median over the rounds of output tokens a second."""
    return _median(model, peer, load, lambda figures: figures["output_tokens_per_s"])


def first_token_p95(model: dict[str, Any], peer: str, load: str = ARRIVALS) -> float | None:
    """The median over the rounds of p95 time to first token, in seconds."""
    return _median(model, peer, load, lambda f: f["ttft_s"] and f["ttft_s"]["p95"])


def _median(model: dict[str, Any], peer: str, load: str, of: Any) -> float | None:
    found = [
        of(cell["figures"])
        for cell in model["cells"]
        if (cell["peer"], cell["load"]) == (peer, load) and not cell["figures"]["errors"]
    ]
    kept = [value for value in found if value is not None]
    return statistics.median(kept) if kept else None


def rows(result: dict[str, Any], model: dict[str, Any]) -> list[list[str]]:
    """The table of a model: a head, then a row a peer, those that did not run as well."""
    loads = [closed(clients) for clients in result["facts"]["clients"]]
    table = [
        [
            *("peer", "version", "threads"),
            *(f"tok/s, {load}" for load in loads),
            *("p95 first token under arrivals, s", "lengths as asked", "answers as `generate`"),
        ]
    ]
    for peer in model["peers"]:
        name = peer["name"]
        if name not in {cell["peer"] for cell in model["cells"]}:
            state = peer["state"].splitlines()[0]
            table.append([name, peer["version"] or NOTHING, state, *[NOTHING] * (len(loads) + 3)])
            continue
        same = peer["answers_as_generate"]
        lengths = "{} of {}".format(*peer["lengths_as_asked"])
        table.append(
            [name, peer["version"] or NOTHING, str(peer["threads"])]
            + [_number(speed(model, name, load), 1) for load in loads]
            + [_number(first_token_p95(model, name), 2), lengths]
            + [f"{same[0]} of {same[1]}" if same else NOTHING]
        )
    return table


def curve_rows(model: dict[str, Any]) -> list[list[str]]:
    """vlserve at more and more clients."""
    head = ["clients", "tok/s", "p95 first token, s", "ms a token, median"]
    return [head] + [
        [
            str(point["clients"]),
            _number(point["figures"]["output_tokens_per_s"], 1),
            _number(point["figures"]["ttft_s"]["p95"], 3),
            _number(1000 * point["figures"]["time_per_token_s"]["p50"], 1),
        ]
        for point in model["curve"]
        if not point["figures"]["errors"]
    ]


def goal_rows(model: dict[str, Any]) -> list[list[str]]:
    """Each goal, the ratio and whether it is met."""
    table = [["vlserve", "ratio", ""]]
    for goal in GOALS:
        ratio, verdict = goal.verdict(model)
        table.append([goal.text, _number(ratio, 3), verdict])
    return table


def tables(result: dict[str, Any]) -> list[RenderableType]:
    """For a terminal."""
    made: list[RenderableType] = []
    for model in result["models"]:
        named = {
            f"{model['model']}: peers": rows(result, model),
            f"{model['model']}: goals": goal_rows(model),
            f"{model['model']}: vlserve": curve_rows(model),
        }
        made += [_rich(title, table) for title, table in named.items() if len(table) > 1]
        made += [
            f"{peer['name']}: {peer['state']}" for peer in model["peers"] if peer["state"] != "ran"
        ]
    return made


def page(result: dict[str, Any], plot_file: str) -> str:
    """For the docs, in Markdown."""
    held = result["facts"]
    lines = [
        "# Peers",
        "",
        "Made by `bench/peer_report.py` out of one run; [how it is measured](bench.md).",
        "",
        f"{held['date'][:10]}, commit {held['commit']}, {held['device']}. {held['rounds']} rounds, "
        f"{held['tokens'][0]} to {held['tokens'][1]} tokens an answer, the same for all peers; "
        f"one picture of {held['image']} in each request.",
        "",
        f"![Throughput and time to first token]({plot_file})",
    ]
    for model in result["models"]:
        rate = model["arrivals_per_s"]
        each = held["requests_per_client"][model["model"]]
        lines += ["", f"## The {model['model']} model", "", *_markdown(rows(result, model))]
        lines += ["", f"{each} requests a client in a closed loop."]
        if rate:
            lines[-1] += f" Arrivals: {held['arrivals']} requests, {rate:.2f} a second."
        lines += ["", *_markdown(goal_rows(model))]
        if model["curve"]:
            lines += ["", "vlserve alone:", "", *_markdown(curve_rows(model))]
    lines += ["", "## What each is", ""]
    notes = {peer["name"]: peer["note"] for m in result["models"] for peer in m["peers"]}
    lines += [f"- {name}: {note}." for name, note in notes.items()]
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], target: Path) -> None:
    """A row a model: throughput over clients, and p95 time to first token under arrivals."""
    models = result["models"]
    figure = Figure(figsize=(9, 3.4 * len(models)), layout="tight")
    axes = figure.subplots(len(models), 2, squeeze=False)
    for (speeds, waits), model in zip(axes, models, strict=True):
        names = [p["name"] for p in model["peers"]]
        clients = result["facts"]["clients"]
        for number, name in enumerate(names):
            measured = [(c, speed(model, name, closed(c))) for c in clients]
            points = [(c, value) for c, value in measured if value is not None]
            if points:
                speeds.plot(*zip(*points, strict=True), "o-", label=name, color=f"C{number}")
            waits.barh(name, first_token_p95(model, name) or 0.0, color=f"C{number}")
        speeds.set(title=model["model"], xlabel="clients", ylabel="output tokens/s", ylim=(0, None))
        waits.set(xlabel="p95 time to first token under arrivals, s")
        waits.invert_yaxis()
    figure.savefig(target, metadata={"Date": None})


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _rich(title: str, rows: list[list[str]]) -> Table:
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("peer", "vlserve") else "right")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _markdown(rows: list[list[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *body]


def main() -> None:
    """Write the page of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    plot_file = f"../bench/results/{options.results.with_suffix('.svg').name}"
    options.page.write_text(page(json.loads(options.results.read_text()), plot_file))


if __name__ == "__main__":
    main()
