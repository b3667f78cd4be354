"""Questions about two pictures shown together."""

import random
import re

from training.grammar import phrase
from training.questions import KINDS, Slots, Turn, ask, description, turn
from training.references import Reference, absent, anything, indefinite
from training.world import Scene

_PICTURE = re.compile(r"\b(the|this|my|the given) (picture|image|photo|drawing|scene)\b")
_BOTH = (
    "describe [the|both|the two] @pics",
    "describe [each @pic|the @pics one by one]",
    "what [do you see|is] in [the|these|both|the two] @pics",
    "what do the [two @pics|@pics] show",
)
_BOTH_HELD_OUT = ("Tell me what both pictures show", "What is shown in these two images?")
_ORDINALS = (("first", "first", "1st"), ("second", "second", "2nd"))


def ask_pair(scenes: tuple[Scene, Scene], rng: random.Random, held_out: bool = False) -> Turn:
    """A question about two pictures: compare, find, add, or one that names its picture."""
    forms = (_more, _which, _total, _one, _one, _describe)
    made = None
    while made is None:
        made = rng.choices(forms, (3, 3, 1, 2, 2, 1))[0](scenes, rng, held_out)
    return made


def _things(scenes: tuple[Scene, Scene], rng: random.Random) -> Reference:
    return Reference() if rng.random() < 0.6 else anything(rng.choice(scenes), rng)


def _more(scenes: tuple[Scene, Scene], rng: random.Random, held_out: bool) -> Turn | None:
    reference = _things(scenes, rng)
    first, second = (reference.found(scene) for scene in scenes)
    if first == second and rng.random() < 0.5:
        return None
    fewer = rng.random() < 0.3
    word = rng.choice(("fewer", "less")) if fewer else "more"
    slots = {"more": word, "plural": reference.spoken(rng, plural=True)}
    answer = (
        "the same" if first == second else ("the first", "the second")[(second > first) ^ fewer]
    )
    return turn("two.more", (slots, answer), rng, held_out)


def _which(scenes: tuple[Scene, Scene], rng: random.Random, held_out: bool) -> Turn | None:
    reference: Reference | None = anything(rng.choice(scenes), rng)
    if rng.random() < 0.1:
        reference = absent(rng.choice(scenes), "", rng)
    if reference is None:
        return None
    first, second = (reference.found(scene) > 0 for scene in scenes)
    if first == second and rng.random() < 0.6:
        return None
    answer = ("neither", "the second", "the first", "both")[2 * first + second]
    slots: Slots = {"a": indefinite(reference.spoken(rng))}
    return turn("two.which", (slots, answer), rng, held_out)


def _total(scenes: tuple[Scene, Scene], rng: random.Random, held_out: bool) -> Turn:
    reference = _things(scenes, rng)
    slots = {"plural": reference.spoken(rng, plural=True)}
    answer = str(sum(reference.found(scene) for scene in scenes))
    return turn("two.total", (slots, answer), rng, held_out)


def _one(scenes: tuple[Scene, Scene], rng: random.Random, held_out: bool) -> Turn | None:
    index = rng.randrange(2)
    about = ask(scenes[index], rng.choice(KINDS), rng, held_out)
    if about is None:
        return None
    which = rng.choice(_ORDINALS[index][: 2 if held_out else 3])
    question, changed = _PICTURE.subn(rf"the {which} \2", about.question)
    if not changed:
        tail = rng.choice(("in the {} picture", "in the {} image", "in the {} photo"))
        mark = "?" if question.endswith("?") else ""
        question = f"{question.rstrip('?')} {tail.format(which)}{mark}"
        if not held_out and rng.random() < 0.3:
            question = f"in the {which} picture, {about.question}"
    return Turn("two.one", question, about.answer)


def _describe(scenes: tuple[Scene, Scene], rng: random.Random, held_out: bool) -> Turn:
    first, second = (description(scene) for scene in scenes)
    pattern = rng.choice(_BOTH_HELD_OUT if held_out else _BOTH)
    answer = f"The first picture: {first} The second picture: {second}"
    return Turn("two.describe", phrase(pattern, rng), answer)
