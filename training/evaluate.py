"""Exact match of the saved model on unseen scenes, phrasings, fonts and a renderer."""

import json
import random
import subprocess
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm
from transformers import Idefics2ForConditionalGeneration, Idefics2Processor

from training.checkpoint import load
from training.draw import Renderer, picture
from training.draw.fonts import Fonts
from training.draw.layout import Kind
from training.pairs import ask_pair
from training.questions import Turn, ask
from training.style import plain
from training.world import Scene

SEED = 2026
# Seeds of drawn pictures start here: below 1 << 31, which no training stage goes.
FIRST_SEED = 1 << 30
SCENES = 400
BATCH = 40
Asker = Callable[[Sequence[Scene], random.Random, bool], Turn | None]


@dataclass(frozen=True)
class Condition:
    """One column of the table."""

    name: str
    held_out: bool = False
    fonts: Fonts = "training"
    renderer: Renderer = "training"
    longest: tuple[int, int] = (64, 800)


CONDITIONS = (
    Condition("seen phrasings"),
    Condition("unseen phrasings", held_out=True),
    Condition("unseen font", fonts="held-out"),
    Condition("unseen renderer", renderer="resvg", longest=(200, 800)),
)


@dataclass(frozen=True)
class Measure:
    """One row of the table: what is drawn, how many pictures, and what is asked."""

    name: str
    pictures: Kind
    ask: Asker
    fits: Callable[[Scene], bool] = lambda scene: True
    number: int = 1
    talk: bool = False

    @property
    def is_printed(self) -> bool:
        """Whether a font makes a difference."""
        return self.pictures in ("digits", "letters", "mixed")


def _single(kind: str) -> Asker:
    return lambda scenes, rng, held_out: ask(scenes[0], kind, rng, held_out)


def _pair(scenes: Sequence[Scene], rng: random.Random, held_out: bool) -> Turn | None:
    return ask_pair((scenes[0], scenes[1]), rng, held_out)


def _any(scenes: Sequence[Scene], rng: random.Random, held_out: bool) -> Turn | None:
    kind = rng.choice(("describe", "colour", "shape", "count", "size", "where", "yes_no", "at"))
    return ask(scenes[0], kind, rng, held_out)


MEASURES = (
    Measure("describe", "things", _single("describe")),
    Measure("colour", "things", _single("colour")),
    Measure("shape", "things", _single("shape")),
    Measure("count", "things", _single("count")),
    Measure("size", "things", _single("size")),
    Measure("where", "things", _single("where")),
    Measure("left_right", "things", _single("left_right")),
    Measure("yes_no", "things", _single("yes_no")),
    Measure("at", "things", _single("at")),
    Measure("digits 1-4", "digits", _single("read"), lambda scene: len(scene.text) <= 4),
    Measure("words 1-6", "letters", _single("read")),
    Measure("describe text", "letters", _single("describe")),
    Measure("no text", "things", _single("read")),
    Measure("second question", "things", _any, talk=True),
    Measure("two pictures", "things", _pair, number=2),
)


@dataclass
class Case:
    """One question to the model: its pictures, its earlier turns and the right answer."""

    pictures: list[Image.Image]
    scenes: list[Scene]
    question: str
    answer: str
    form: str
    earlier: list[tuple[str, str]]

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the chat template wants it."""
        words = [*self.earlier, (self.question, "")]
        messages: list[dict[str, Any]] = []
        for number, (question, answer) in enumerate(words):
            images = [] if number else [{"type": "image"}] * len(self.pictures)
            said = [*images, {"type": "text", "text": question}]
            messages.append({"role": "user", "content": said})
            if answer:
                content = [{"type": "text", "text": answer}]
                messages.append({"role": "assistant", "content": content})
        return messages


def cases(measure: Measure, condition: Condition, number: int) -> Iterator[Case]:
    """`number` cases, the same on every run."""
    rng = random.Random(f"{SEED} {measure.name} {condition.name}")
    seed = FIRST_SEED + rng.randrange(1 << 30)
    made = 0
    while made < number:
        drawn = []
        while len(drawn) < measure.number:
            seed += 1
            image, scene = picture(
                seed, measure.pictures, condition.renderer, condition.fonts, condition.longest
            )
            if measure.fits(scene):
                drawn.append((image, scene))
        scenes = [scene for _, scene in drawn]
        turn = measure.ask(scenes, rng, condition.held_out)
        earlier = measure.ask(scenes, rng, condition.held_out) if measure.talk else None
        if turn is None or (measure.talk and earlier is None):
            continue
        made += 1
        before = [] if earlier is None else [(plain(earlier.question, rng), "")]
        images = [image for image, _ in drawn]
        question = plain(turn.question, rng)
        yield Case(images, scenes, question, turn.answer, turn.form, before)


@torch.inference_mode()
def answers(
    model: Idefics2ForConditionalGeneration, processor: Idefics2Processor, batch: Sequence[Case]
) -> list[str]:
    """The model's greedy answers to a batch of cases."""
    texts = [processor.apply_chat_template(c.messages(), add_generation_prompt=True) for c in batch]
    pictures = [case.pictures for case in batch]
    inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=100)
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


def evaluate(
    folder: Path, out: Path, wrong: Path | None = None, number: int = SCENES
) -> dict[str, Any]:
    """Measure the model in `folder`; writes `out`.json and `out`.md and returns the figures."""
    torch.set_num_threads(1)
    model, processor = load(folder)
    table: dict[str, dict[str, float]] = defaultdict(dict)
    detail: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    mistakes: list[str] = []
    todo = [(m, c) for m in MEASURES for c in CONDITIONS if m.is_printed or c.fonts == "training"]
    for measure, condition in tqdm(todo, desc="evaluate", mininterval=5):
        asked = list(cases(measure, condition, number))
        right = 0
        for first in range(0, number, BATCH):
            batch = asked[first : first + BATCH]
            for case, said in zip(batch, _converse(model, processor, batch), strict=True):
                good = said == case.answer
                right += good
                part = case.form
                if measure.is_printed and case.form.startswith("read"):
                    part = f"{measure.name}, length {len(case.answer)}"
                entry = detail[f"{condition.name}: {part}"]
                entry[0], entry[1] = entry[0] + good, entry[1] + 1
                if not good:
                    mistakes.append(
                        f"{measure.name}\t{condition.name}\t{case.question}\t{case.answer}\t{said}"
                    )
        table[measure.name][condition.name] = round(100 * right / number, 2)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": SEED,
        "commit": _commit(),
        "scenes": number,
        "exact": dict(table),
        "detail": {k: {"right": r, "of": n} for k, (r, n) in sorted(detail.items())},
    }
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(result))
    if wrong is not None:
        wrong.write_text("\n".join(mistakes) + "\n")
    return result


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
    parser.add_argument("--mistakes", type=Path, help="write every wrong answer to this file")
    options = parser.parse_args()
    result = evaluate(options.model, options.out, options.mistakes, options.scenes)
    print(markdown(result))


if __name__ == "__main__":
    main()
