"""What the evaluation asks: unseen scenes, phrasings, fonts and a renderer, case by case."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

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
        drawn: list[tuple[Image.Image, Scene]] = []
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
