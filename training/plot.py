"""The curves of all stages in one picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.cases import CONDITIONS

_STAGES = (
    ("language", "language, on oracle vectors"),
    ("refined", "language, second round"),
    ("frozen", "joint, vision frozen"),
    ("together", "joint, all learning"),
)


def _smooth(values: Sequence[float], window: int) -> np.ndarray:
    window = max(1, min(window, len(values) // 4))
    return np.convolve(values, np.ones(window) / window, "valid")


def _lines(log: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def _text_side(axes: Axes, log: Path, title: str) -> None:
    lines = _lines(log)
    loss = _smooth([line["loss"] for line in lines], 10)
    right = _smooth([100 * line["exact"] for line in lines], 10)
    steps = [line["step"] for line in lines][len(lines) - len(loss) :]
    axes.plot(steps, right, color="tab:green", label="answers exact, % (teacher forced)")
    axes.set_ylim(0, 100)
    axes.set_title(title)
    axes.set_xlabel("step")
    other = axes.twinx()
    other.semilogy(steps, loss, color="tab:red", label="loss")
    axes.plot([], [], color="tab:red", label="loss (right scale)")
    axes.legend(fontsize=7)


def _vision_side(axes: Axes, log: Path) -> None:
    lines = [line for line in _lines(log) if "rate" in line]
    for name in ("shape", "colour", "size", "character", "oracle", "cover"):
        steps = [line["step"] for line in lines]
        axes.semilogy(steps, [line[name] for line in lines], label=name)
    axes.set_title("vision, losses")
    axes.set_xlabel("step")
    axes.legend(fontsize=7)


def _table(axes: Axes, result: dict[str, Any]) -> None:
    rows = list(result["exact"])
    for index, condition in enumerate(CONDITIONS):
        values = [result["exact"][row].get(condition.name, np.nan) for row in rows]
        heights = np.arange(len(rows)) + 0.2 * index
        axes.barh(heights, values, 0.18, label=condition.name)
    axes.set_yticks(np.arange(len(rows)) + 0.3, rows, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_title("exact match of the saved model, %")
    axes.legend(fontsize=7, loc="lower left")


def plot(run: Path, result: dict[str, Any], out: Path) -> None:
    """Draw the logs under `run` and the figures of `evaluate` into the SVG file `out`."""
    mpl.rcParams["svg.hashsalt"] = "vlserve"
    figure = Figure(figsize=(15, 8), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    _vision_side(panels[0], run / "vision" / "log.jsonl")
    for axes, (stage, title) in zip(panels[1:], _STAGES, strict=False):
        _text_side(axes, run / stage / "log.jsonl", title)
    _table(panels[5], result)
    figure.savefig(out, metadata={"Date": None})
