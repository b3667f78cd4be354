"""Draws the curve of a vision training run: `python -m training.vision_plot DIR`."""

import json
from argparse import ArgumentParser
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def plot(run: Path) -> Path:
    """Writes DIR/curve.png, the losses and the unseen pictures read whole, and returns its path."""
    lines = (run / "log.jsonl").read_text().splitlines()
    entries: list[dict[str, float]] = [json.loads(line) for line in lines]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    losses = [entry for entry in entries if "rate" in entry]
    for name in (key for key in losses[0] if key not in {"step", "seconds", "rate"}):
        left.plot([e["step"] for e in losses], [e[name] for e in losses], label=name)
    left.set(yscale="log", xlabel="step", title="parts of the loss")
    left.legend()
    measured = [entry for entry in entries if "rate" not in entry]
    for name in (key for key in (measured[0] if measured else {}) if key.endswith("whole")):
        right.plot([e["step"] for e in measured], [e[name] for e in measured], label=name)
    right.set(xlabel="step", title="unseen pictures read without a fault", ylim=(0, 1))
    right.legend(fontsize=7)
    path = run / "curve.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


if __name__ == "__main__":
    parser = ArgumentParser(description="Plot a vision training run.")
    parser.add_argument("run", type=Path)
    print(plot(parser.parse_args().run))
