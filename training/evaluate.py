"""Exact match of the saved model on unseen scenes, phrasings, fonts and a renderer."""

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import Idefics2ForConditionalGeneration, Idefics2Processor

from training.cases import CONDITIONS, MEASURES, SEED, Case, Condition, Measure, cases
from training.checkpoint import load

SCENES = 400
BATCH = 40
MISTAKES = Path("training/run/mistakes.json")


@torch.inference_mode()
def answers(
    model: Idefics2ForConditionalGeneration, processor: Idefics2Processor, batch: Sequence[Case]
) -> list[str]:
    """The model's greedy answers to a batch of cases."""
    texts = [processor.apply_chat_template(c.messages(), add_generation_prompt=True) for c in batch]
    pictures = [case.pictures for case in batch]
    inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=100)  # type: ignore[misc]  # Transformers' own types
    new = made[:, inputs["input_ids"].shape[1] :]
    decoded: list[str] = processor.batch_decode(new, skip_special_tokens=True)
    return decoded


def _converse(
    model: Idefics2ForConditionalGeneration, processor: Idefics2Processor, batch: Sequence[Case]
) -> list[str]:
    """Answers where the first question, if any, is answered by the model itself."""
    if batch[0].earlier:
        openings = [Case(c.pictures, c.scenes, c.earlier[0][0], "", "", []) for c in batch]
        said = answers(model, processor, openings)
        for case, words in zip(batch, said, strict=True):
            case.earlier = [(case.earlier[0][0], words)]
    return answers(model, processor, batch)


def cells() -> list[tuple[Measure, Condition]]:
    """Every cell of the table; a font makes no difference where nothing is printed."""
    return [(m, c) for m in MEASURES for c in CONDITIONS if m.is_printed or c.fonts == "training"]


def measure(folder: Path, part: int, parts: int, number: int) -> list[dict[str, str]]:
    """One entry a case, for every `parts`-th cell from cell `part` on."""
    torch.set_num_threads(1)
    model, processor = load(folder)
    entries: list[dict[str, str]] = []
    for row, column in tqdm(cells()[part::parts], desc="evaluate", mininterval=5, disable=part > 0):
        asked = list(cases(row, column, number))
        for first in range(0, number, BATCH):
            batch = asked[first : first + BATCH]
            for case, said in zip(batch, _converse(model, processor, batch), strict=True):
                entries.append(
                    {
                        "row": row.name,
                        "column": column.name,
                        "form": case.form,
                        "question": case.question,
                        "answer": case.answer,
                        "said": said,
                    }
                )
    return entries


def evaluate(folder: Path, out: Path, number: int = SCENES) -> dict[str, Any]:
    """Measure the model in `folder` with one process a core.

    Writes `out`.json, `out`.md and every wrong answer to MISTAKES; returns the figures.
    """
    parts = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as temporary:
        files = [Path(temporary) / f"{part}.json" for part in range(parts)]
        command = [sys.executable, "-m", "training.evaluate", "--model", str(folder)]
        command += ["--scenes", str(number), "--parts", str(parts)]
        jobs = [
            subprocess.Popen(  # noqa: S603
                [*command, "--part", str(part), "--out", str(file)]
            )
            for part, file in enumerate(files)
        ]
        for job in jobs:
            if job.wait():
                raise subprocess.CalledProcessError(job.returncode, job.args)
        entries = [entry for file in files for entry in json.loads(file.read_text())]
    result = summary(entries, number)
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(result))
    wrong = [entry for entry in entries if entry["said"] != entry["answer"]]
    MISTAKES.parent.mkdir(parents=True, exist_ok=True)
    MISTAKES.write_text(json.dumps(wrong, indent=0) + "\n")
    return result


def summary(entries: Sequence[dict[str, str]], number: int) -> dict[str, Any]:
    """The figures: exact match by row and column, and by form and length."""
    exact: dict[str, dict[str, float]] = {}
    detail: dict[str, dict[str, int]] = {}
    for row, column in cells():
        mine = [e for e in entries if (e["row"], e["column"]) == (row.name, column.name)]
        right = sum(e["said"] == e["answer"] for e in mine)
        exact.setdefault(row.name, {})[column.name] = round(100 * right / len(mine), 2)
        for entry in mine:
            part = f"{row.name}, {entry['form']}"
            if row.name in ("digits 1-4", "words 1-6"):
                part = f"{row.name}, length {len(entry['answer'])}"
            figures = detail.setdefault(f"{column.name}: {part}", {"right": 0, "of": 0})
            figures["right"] += entry["said"] == entry["answer"]
            figures["of"] += 1
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": SEED,
        "commit": _commit(),
        "scenes": number,
        "exact": exact,
        "detail": dict(sorted(detail.items())),
    }


def markdown(result: dict[str, Any]) -> str:
    """The figures of `evaluate` as Markdown tables."""
    names = [condition.name for condition in CONDITIONS]
    lines = [
        f"Exact match in percent, {result['scenes']} unseen scenes a cell, greedy, "
        f"{result['date']}, seed {result['seed']}, commit {result['commit']}.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for row, cells in result["exact"].items():
        values = [f"{cells[name]:.1f}" if name in cells else "" for name in names]
        lines.append(f"| {row} | " + " | ".join(values) + " |")
    lengths = {k: v for k, v in result["detail"].items() if ", length " in k}
    lines += ["", "| printed, by length | right | of |", "|---|---|---|"]
    lines += [f"| {key} | {cell['right']} | {cell['of']} |" for key, cell in lengths.items()]
    return "\n".join(lines) + "\n"


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description="Measure the embedded model on pictures it never saw.")
    parser.add_argument("--model", type=Path, default=Path("src/vlserve/models/embedded"))
    parser.add_argument("--out", type=Path, default=Path("docs/embedded-model"))
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes a cell")
    parser.add_argument("--part", type=int, help="only some of the cells, case by case, to --out")
    parser.add_argument("--parts", type=int, default=1)
    options = parser.parse_args()
    if options.part is None:
        print(markdown(evaluate(options.model, options.out, options.scenes)))
    else:
        entries = measure(options.model, options.part, options.parts, options.scenes)
        options.out.write_text(json.dumps(entries))


if __name__ == "__main__":
    main()
