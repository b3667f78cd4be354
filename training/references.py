"""Naming things: how a question or an answer refers to a shape of a scene, and what matches it."""

import random
from dataclasses import dataclass

from training.world import COLOURS, PLACES, SHAPES, SIZES, Scene, Thing

_SIZE_WORDS = (("small", "small", "small", "little"), ("large", "large", "large", "big"))
_NOUNS = ("shape", "shape", "thing", "object", "figure")


@dataclass(frozen=True)
class Reference:
    """A description by any of shape, colour, size and place; None leaves that attribute open."""

    shape: int | None = None
    colour: int | None = None
    size: int | None = None
    place: int | None = None

    def matches(self, thing: Thing) -> bool:
        """Whether `thing` has every attribute named."""
        pairs = zip(
            (self.shape, self.colour, self.size, self.place),
            (thing.shape, thing.colour, thing.size, thing.place),
            strict=True,
        )
        return all(wanted is None or wanted == found for wanted, found in pairs)

    def found(self, scene: Scene) -> int:
        """How many things of `scene` match."""
        return sum(self.matches(thing) for thing in scene.things)

    def words(self) -> str:
        """The canonical words without an article: 'large red circle at the top left'."""
        parts = [] if self.size is None else [SIZES[self.size]]
        parts += [] if self.colour is None else [COLOURS[self.colour]]
        parts.append("shape" if self.shape is None else SHAPES[self.shape])
        parts += [] if self.place is None else [at(self.place)]
        return " ".join(parts)

    def spoken(self, rng: random.Random, plural: bool = False) -> str:
        """The same in someone's own words ('big' for large, 'object' for shape)."""
        parts = [] if self.size is None else [rng.choice(_SIZE_WORDS[self.size])]
        parts += [] if self.colour is None else [COLOURS[self.colour]]
        noun = rng.choice(_NOUNS) if self.shape is None else SHAPES[self.shape]
        parts.append(plural_of(noun) if plural else noun)
        parts += [] if self.place is None else [spoken_at(self.place, rng)]
        return " ".join(parts)


def at(place: int) -> str:
    """'at the top left', 'in the center'."""
    return f"in the {PLACES[place]}" if PLACES[place] == "center" else f"at the {PLACES[place]}"


def spoken_at(place: int, rng: random.Random) -> str:
    """A place in someone's own words."""
    name = PLACES[place]
    if name == "center":
        words = (
            "in the center",
            "at the center",
            "in the centre",
            "in the middle",
            "at the centre",
        )
        return rng.choice(words)
    if rng.random() < 0.6:
        return at(place)
    if " " in name:
        if rng.random() < 0.25:
            name = name.replace("top", "upper").replace("bottom", "lower")
        return rng.choice(("in the {} corner", "in the {}", "at the {} corner")).format(name)
    return rng.choice(("on the {}", "at the {} side", "on the {} side", "in the {}")).format(name)


def plural_of(noun: str) -> str:
    """'circles', 'crosses'."""
    return noun + ("es" if noun.endswith("s") else "s")


def indefinite(words: str) -> str:
    """`words` with 'a' or 'an'."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def full(thing: Thing) -> str:
    """'a large red circle at the top left'."""
    return "a " + Reference(thing.shape, thing.colour, thing.size, thing.place).words()


def unique(scene: Scene, thing: Thing, hidden: str, rng: random.Random) -> Reference | None:
    """A random reference to `thing` alone that does not name the `hidden` attribute."""
    options: list[tuple[Reference, int]] = []
    for shape in (thing.shape, None):
        for colour in (thing.colour, None):
            for size in (thing.size, None):
                for place in (thing.place, None):
                    names = (shape, colour, size, place)
                    reference = Reference(*names)
                    named = dict(zip(("shape", "colour", "size", "place"), names, strict=True))
                    if hidden and named[hidden] is not None:
                        continue
                    if reference.found(scene) != 1 or names == (None,) * 4:
                        continue
                    terse = sum(name is None for name in names)
                    weight = terse * (6 if shape is not None or hidden == "shape" else 2)
                    options.append((reference, weight if place is None else 2))
    if not options:
        return None
    return rng.choices([o[0] for o in options], [o[1] for o in options])[0]


def absent(scene: Scene, hidden: str, rng: random.Random) -> Reference | None:
    """A reference that nothing in `scene` matches, near to something there half of the time."""
    for _ in range(20):
        near = rng.choice(scene.things) if scene.things and rng.random() < 0.5 else None
        shape = rng.randrange(len(SHAPES))
        colour = rng.randrange(len(COLOURS)) if rng.random() < 0.5 else None
        size = rng.randrange(len(SIZES)) if rng.random() < 0.15 else None
        if near is not None and rng.random() < 0.5:
            shape, colour = near.shape, rng.randrange(len(COLOURS))
        elif near is not None and colour is not None:
            colour = near.colour
        wanted = {"shape": shape, "colour": colour, "size": size}
        if hidden in wanted:
            wanted[hidden] = None
        reference = Reference(wanted["shape"], wanted["colour"], wanted["size"])
        if reference != Reference() and reference.found(scene) == 0:
            return reference
    return None


def anything(scene: Scene, rng: random.Random) -> Reference:
    """A reference to a kind of thing, there or not: for counting and for yes or no."""
    base = rng.choice(scene.things) if scene.things and rng.random() < 0.6 else None
    shape = base.shape if base else rng.randrange(len(SHAPES))
    colour = base.colour if base else rng.randrange(len(COLOURS))
    size = base.size if base else rng.randrange(len(SIZES))
    form = rng.random()
    if form < 0.4:
        return Reference(shape)
    if form < 0.6:
        return Reference(None, colour)
    if form < 0.85:
        return Reference(shape, colour)
    if form < 0.93:
        return Reference(shape, None, size)
    return Reference(None, None, size) if form < 0.97 else Reference(shape, colour, size)
