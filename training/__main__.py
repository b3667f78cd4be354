"""Makes the embedded model from nothing: `python -m training`; goes on where it was stopped."""

import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import torch

from training.card import write_card
from training.checkpoint import write_model, write_processor
from training.evaluate import evaluate
from training.example import write_example
from training.joint import FROZEN, TOGETHER, train_joint
from training.plot import plot
from training.run import load_weights
from training.tokenizer import load_tokenizer

MODEL = Path("src/vlserve/models/embedded")
DOCS = Path("docs")


def both_sides(run: Path, model: Path) -> None:
    """Train vision and language at the same time, one process and one core each.

    Raises subprocess.CalledProcessError if one fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # noqa: TID251
    vision = ["training.vision", "--run", str(run / "vision")]
    language = ["training.language", "--tokenizer", str(model), "--run", str(run)]
    jobs = [
        subprocess.Popen([sys.executable, "-m", *command], env=environment)  # noqa: S603
        for command in (vision, language)
        if command is language or not (run / "vision" / "final.safetensors").exists()
    ]
    try:
        for job in jobs:
            if job.wait():
                raise subprocess.CalledProcessError(job.returncode, job.args)
    finally:
        for job in jobs:
            job.terminate()


def make(run: Path, model: Path, docs: Path) -> None:
    """Every stage; what is finished under `run` is not done again."""
    staged = run / "model"
    staged.mkdir(parents=True, exist_ok=True)
    # Ids must not move under trained weights: a tokenizer that is there is kept.
    frozen_one = next((f for f in (staged, model) if (f / "tokenizer.json").exists()), None)
    write_processor(staged, load_tokenizer(frozen_one) if frozen_one else None)
    both_sides(run, staged)
    torch.set_num_threads(os.cpu_count() or 1)
    sides = [run / "vision" / "final.safetensors", run / "refined" / "latest.safetensors"]
    shards = run / "pictures"
    frozen = train_joint(FROZEN, staged, sides, run / "frozen", shards)
    weights = train_joint(TOGETHER, staged, [frozen], run / "together", shards)
    write_model(staged, load_weights(weights))
    write_example(staged)
    docs.mkdir(exist_ok=True)
    shutil.copytree(staged, model, dirs_exist_ok=True)
    result = evaluate(model, docs / "embedded-model")
    plot(run, result, docs / "embedded-model.svg")
    write_card(model, result)


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description="Train the embedded model, measure it, and install it.")
    parser.add_argument("--run", type=Path, default=Path("training/run"), help="what it keeps")
    parser.add_argument("--model", type=Path, default=MODEL, help="where the model goes")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where curves and figures go")
    options = parser.parse_args()
    make(options.run, options.model, options.docs)


if __name__ == "__main__":
    main()
