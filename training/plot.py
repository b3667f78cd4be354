"""The curves of all stages in one picture."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


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


def plot(run: Path, out: Path) -> None:
    """Draw the logs under `run` into the SVG file `out`."""
    mpl.rcParams["svg.hashsalt"] = "vlserve"
    figure = Figure(figsize=(11, 7), layout="constrained")
    (vision, language), (frozen, together) = figure.subplots(2, 2)
    _vision_side(vision, run / "vision" / "log.jsonl")
    _text_side(language, run / "language" / "log.jsonl", "language, on oracle vectors")
    _text_side(frozen, run / "frozen" / "log.jsonl", "joint, vision frozen")
    _text_side(together, run / "together" / "log.jsonl", "joint, all learning")
    figure.savefig(out, metadata={"Date": None})
