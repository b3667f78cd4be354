"""Samples a picture of each kind: its canvas, its ground, what it shows and its wear."""

import math
from typing import Literal

import numpy as np

from training.world import PLACES, Scene

from .colours import ground_colour, lightness_gap
from .figures import sample_things
from .fonts import Fonts
from .marks import Figure, Glyph, Ground, Layout
from .printing import sample_block, sample_page, sample_text
from .words import digits, letters, mixed

# One to three things; one text of digits, of letters or of both; and, for the vision side alone,
# pages full of things or of characters.
Kind = Literal["things", "digits", "letters", "mixed", "thing page", "strewn page", "line page"]
KINDS: tuple[Kind, ...] = (
    "things",
    "digits",
    "letters",
    "mixed",
    "thing page",
    "strewn page",
    "line page",
)
LONGEST_SIDE = (64, 800)
LONGEST_RATIO = 3.0


def sample(
    seed: int,
    kind: Kind,
    fonts: Fonts = "training",
    longest: tuple[int, int] = LONGEST_SIDE,
    ease: float = 0.0,
) -> Layout:
    """The picture that `seed` stands for; `longest` bounds its longer side in pixels.

    `ease` from 0 to 1 narrows the sizes of characters on pages and the forms of the canvas.
    Raises ValueError on an unknown kind.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    while True:
        layout = _attempt(rng, kind, fonts=fonts, longest=longest, ease=ease)
        if layout is not None:
            return layout


def _attempt(
    rng: np.random.Generator, kind: Kind, *, fonts: Fonts, longest: tuple[int, int], ease: float
) -> Layout | None:
    width, height = _canvas(rng, kind, longest, ease)
    ground = _ground(rng)
    figures: tuple[Figure, ...] = ()
    glyphs: tuple[Glyph, ...] = ()
    scene = Scene()
    if kind in ("things", "thing page"):
        count = int(rng.integers(1, 4)) if kind == "things" else int(rng.integers(5, 10))
        places = [int(p) for p in rng.choice(len(PLACES), count, replace=False)]
        figures, scene = sample_things(rng, width, height, ground, places)
        if kind == "things" and len(figures) < count:
            return None
    elif kind == "strewn page":
        glyphs, scene = sample_page(rng, width, height, ground, fonts=fonts, smallness=2 + 4 * ease)
    elif kind == "line page":
        glyphs, scene = sample_block(
            rng, width, height, ground, fonts=fonts, largest=4 - 2.7 * ease
        )
    else:
        source = {"digits": digits, "letters": letters, "mixed": mixed}[kind]
        found = sample_text(rng, width, height, ground, text=source(rng), fonts=fonts)
        if found is None:
            return None
        glyphs, scene = found
    if not glyphs and not figures:
        return None
    blur = 0.0
    if rng.random() < 0.12:
        blur = float(rng.uniform(0.2, 0.55)) * min(width, height) / 80
    jpeg = int(rng.integers(40, 96)) if rng.random() < 0.2 else 0
    return Layout(width, height, ground, figures, glyphs, scene, blur, jpeg)


def _canvas(
    rng: np.random.Generator, kind: Kind, longest: tuple[int, int], ease: float
) -> tuple[int, int]:
    """Half of the pictures near square, the others up to 1:3; pages are small, for speed."""
    low, high = longest
    if "page" in kind:
        high = max(low, high // 2)
    side = math.exp(rng.uniform(math.log(low), math.log(high)))
    spread = math.log(LONGEST_RATIO) if rng.random() < 0.5 else math.log(1.3)
    ratio = math.exp((1 - ease) * float(rng.uniform(-spread, spread)))
    if rng.random() < 0.2:
        ratio = 1.0
    width = side if ratio >= 1 else side * ratio
    height = side / ratio if ratio >= 1 else side
    return round(width), round(height)


def _ground(rng: np.random.Generator) -> Ground:
    first = ground_colour(rng)
    second = first
    angle = 0.0
    if rng.random() < 0.25:
        angle = float(rng.uniform(0, 2 * math.pi))
        for _ in range(10):
            other = ground_colour(rng)
            if lightness_gap(first, other) < 35:
                second = other
                break
    grain = float(rng.uniform(2, 12)) if rng.random() < 0.25 else 0.0
    cells = int(rng.integers(24, 129))
    return Ground(first, second, angle, grain, cells, int(rng.integers(2**31)))
