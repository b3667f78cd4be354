"""Questions about scenes and their one right answer."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.grammar import phrase
from training.held_out import HELD_OUT
from training.references import (
    Reference,
    absent,
    anything,
    at,
    full,
    indefinite,
    spoken_at,
    unique,
)
from training.templates import TRAINED
from training.world import COLOURS, PLACES, SHAPES, SIZES, Scene, Thing

KINDS = (
    "describe", "colour", "shape", "count", "size", "where", "left_right", "yes_no", "at", "read",
)  # fmt: skip
NO_TEXT = "There is no text."
EMPTY = "an empty picture."

Slots = dict[str, str]


@dataclass(frozen=True)
class Turn:
    """One question, its answer, and the kind and form it was made from ('count.some')."""

    form: str
    question: str
    answer: str


def description(scene: Scene) -> str:
    """The answer to 'Describe the image', things in reading order."""
    if scene.text:
        return f'the text "{scene.text}".'
    named = [full(thing) for thing in sorted(scene.things, key=lambda thing: thing.place)]
    if not named:
        return EMPTY
    return (", ".join(named[:-1]) + " and " if named[1:] else "") + named[-1] + "."


def nothing(reference: Reference) -> str:
    """What to say when nothing matches: 'There is no red star.'."""
    return f"There is no {reference.words()}."


def _slots(reference: Reference, rng: random.Random) -> Slots:
    bare = reference.spoken(rng)
    return {"the": f"the {bare}", "bare": bare, "a": indefinite(bare)}


def _of(hidden: str, name: Callable[[Thing], str]) -> Callable[..., tuple[Slots, str] | None]:
    def ask(scene: Scene, rng: random.Random) -> tuple[Slots, str] | None:
        if not scene.things or rng.random() < 0.12:
            missing = absent(scene, hidden, rng)
            return None if missing is None else (_slots(missing, rng), nothing(missing))
        thing = rng.choice(scene.things)
        reference = unique(scene, thing, hidden, rng)
        return None if reference is None else (_slots(reference, rng), name(thing))

    return ask


def _describe(scene: Scene, rng: random.Random) -> tuple[Slots, str]:
    return {}, description(scene)


def _at(scene: Scene, rng: random.Random) -> tuple[Slots, str]:
    place = rng.randrange(len(PLACES))
    if scene.things and rng.random() < 0.8:
        place = rng.choice(scene.things).place
    found = [thing for thing in scene.things if thing.place == place]
    slots = {"at": spoken_at(place, rng)}
    if not found:
        return slots, f"There is nothing {at(place)}."
    return slots, "a " + Reference(found[0].shape, found[0].colour, found[0].size).words()


def _count_all(scene: Scene, rng: random.Random) -> tuple[Slots, str]:
    return {}, str(len(scene.things))


def _count_some(scene: Scene, rng: random.Random) -> tuple[Slots, str]:
    reference = anything(scene, rng)
    return {"plural": reference.spoken(rng, plural=True)}, str(reference.found(scene))


def _pair(scene: Scene, rng: random.Random) -> tuple[Thing, Thing, Slots, str | None] | None:
    if len(scene.things) < 2:
        return None
    first, second = rng.sample(scene.things, 2)
    one, other = unique(scene, first, "place", rng), unique(scene, second, "place", rng)
    if one is None or other is None:
        return None
    missing = absent(scene, "place", rng) if rng.random() < 0.08 else None
    if missing is not None:
        one, other = (missing, other) if rng.random() < 0.5 else (one, missing)
    slots = _slots(one, rng) | {"other": "the " + other.spoken(rng)}
    return first, second, slots, None if missing is None else nothing(missing)


def _side(axis: Callable[[int], int], words: tuple[str, str]) -> Callable[..., object]:
    def ask(scene: Scene, rng: random.Random) -> tuple[Slots, str] | None:
        pair = _pair(scene, rng)
        if pair is None or axis(pair[0].place) == axis(pair[1].place):
            return None
        first, second, slots, missing = pair
        return slots, missing or words[axis(first.place) > axis(second.place)]

    return ask


_SIDES: tuple[tuple[str, Callable[[Thing, Thing], bool]], ...] = (
    ("left of", lambda a, b: a.place % 3 < b.place % 3),
    ("right of", lambda a, b: a.place % 3 > b.place % 3),
    ("above", lambda a, b: a.place // 3 < b.place // 3),
    ("below", lambda a, b: a.place // 3 > b.place // 3),
)


def _is_side(scene: Scene, rng: random.Random) -> tuple[Slots, str] | None:
    pair = _pair(scene, rng)
    if pair is None:
        return None
    first, second, slots, missing = pair
    side, holds = rng.choice(_SIDES)
    answer = missing or ("yes" if holds(first, second) else "no")
    if side.endswith("of"):
        side = rng.choice((side, f"to the {side}", f"on the {side}"))
    return slots | {"side": side}, answer


def _exists(scene: Scene, rng: random.Random) -> tuple[Slots, str] | None:
    if rng.random() < 0.5:
        if not scene.things:
            return None
        thing = rng.choice(scene.things)
        names = (thing.shape, thing.colour if rng.random() < 0.6 else None)
        reference = Reference(*names, thing.size if rng.random() < 0.25 else None)
        if rng.random() < 0.15:
            reference = Reference(None, thing.colour)
        if rng.random() < 0.2:
            reference = Reference(reference.shape, reference.colour, None, thing.place)
        answer = "yes"
    else:
        missing = absent(scene, "", rng)
        if missing is None:
            return None
        reference, answer = missing, "no"
        if scene.things and rng.random() < 0.2:
            thing = rng.choice(scene.things)
            reference = Reference(thing.shape, None, None, rng.randrange(len(PLACES)))
            answer = "yes" if reference.found(scene) else "no"
    bare = reference.spoken(rng)
    return {"a": indefinite(bare), "plural": reference.spoken(rng, plural=True)}, answer


def _is(scene: Scene, rng: random.Random) -> tuple[Slots, str] | None:
    hidden = rng.choice(("colour", "colour", "shape", "size", "place"))
    if not scene.things or rng.random() < 0.06:
        missing = absent(scene, hidden, rng)
        if missing is None:
            return None
        thing, slots, answer = None, _slots(missing, rng), nothing(missing)
    else:
        thing = rng.choice(scene.things)
        reference = unique(scene, thing, hidden, rng)
        if reference is None:
            return None
        slots, answer = _slots(reference, rng), ""
    number = {"colour": len(COLOURS), "shape": len(SHAPES), "size": 2, "place": 9}[hidden]
    value = rng.randrange(number)
    if thing is not None:
        truth = int(getattr(thing, hidden))
        if rng.random() < 0.5:
            value = truth
        elif rng.random() < 0.4:
            value = int(getattr(rng.choice(scene.things), hidden))
        answer = "yes" if value == truth else "no"
    words = {
        "colour": lambda: COLOURS[value],
        "shape": lambda: indefinite(SHAPES[value]),
        "size": lambda: rng.choice((SIZES[value], SIZES[value], ("small", "big")[value])),
        "place": lambda: spoken_at(value, rng),
    }
    return slots | {"value": words[hidden]()}, answer


def _has_text(scene: Scene, rng: random.Random) -> tuple[Slots, str]:
    return {}, "yes" if scene.text else "no"


def _is_empty(scene: Scene, rng: random.Random) -> tuple[Slots, str]:
    return {}, "no" if scene.text or scene.things else "yes"


def _read(fits: Callable[[str], bool]) -> Callable[..., tuple[Slots, str] | None]:
    def ask(scene: Scene, rng: random.Random) -> tuple[Slots, str] | None:
        if not scene.text:
            return {}, NO_TEXT
        return ({}, scene.text) if fits(scene.text) else None

    return ask


FORMS: dict[str, Callable[..., object]] = {
    "describe.whole": _describe,
    "at.at": _at,
    "colour.of": _of("colour", lambda thing: COLOURS[thing.colour]),
    "shape.of": _of("shape", lambda thing: SHAPES[thing.shape]),
    "count.all": _count_all,
    "count.some": _count_some,
    "size.of": _of("size", lambda thing: SIZES[thing.size]),
    "where.of": _of("place", lambda thing: at(thing.place)),
    "left_right.side": _side(lambda place: place % 3, ("left", "right")),
    "left_right.level": _side(lambda place: place // 3, ("above", "below")),
    "left_right.is": _is_side,
    "yes_no.exists": _exists,
    "yes_no.is": _is,
    "yes_no.text": _has_text,
    "yes_no.empty": _is_empty,
    "read.text": _read(lambda text: True),
    "read.number": _read(str.isdigit),
    "read.word": _read(str.isalpha),
}
_WEIGHTS = {"yes_no.text": 0.15, "yes_no.empty": 0.1, "yes_no.exists": 1.5, "left_right.side": 1.5}


def forms_of(kind: str) -> tuple[str, ...]:
    """The forms of one kind of single-picture question."""
    return tuple(form for form in FORMS if form.split(".")[0] == kind)


def ask(scene: Scene, kind: str, rng: random.Random, held_out: bool = False) -> Turn | None:
    """A question of `kind` about `scene`, or None where this draw has no unambiguous one."""
    forms = forms_of(kind)
    form = rng.choices(forms, [_WEIGHTS.get(name, 1.0) for name in forms])[0]
    made = FORMS[form](scene, rng)
    return None if made is None else turn(form, made, rng, held_out)  # type: ignore[arg-type]


def turn(form: str, made: tuple[Slots, str], rng: random.Random, held_out: bool) -> Turn:
    """Words around the `made` slots and answer."""
    patterns: Sequence[str] = (HELD_OUT if held_out else TRAINED)[form]
    slots, answer = made
    return Turn(form, phrase(rng.choice(patterns), rng, **slots), answer)
