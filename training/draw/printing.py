"""Printed text: where it stands, how large, in which face and colour; and pages full of it."""

import math

import numpy as np

from training.world import CHARACTERS, GRID, IMAGE_SIZE, PATCH_SIZE, Scene

from .colours import RGB, TEXT_CONTRAST, from_hsv, lightness_gap, shade
from .fonts import Face, Fonts, families
from .marks import Glyph, Ground, Point
from .words import digits, letters, mixed

# In pixels of the reduced picture: least distance of neighbouring centres (more than a patch,
# so that no two fall into one), least capital height, least width of an em.
SPACING = PATCH_SIZE + 0.6
CAPITAL = 8.3
LARGEST_CAPITAL = 38.0
EM_WIDTH = 9.5


def sample_face(rng: np.random.Generator, fonts: Fonts) -> Face:
    """A face of a family, all families alike."""
    group = families(fonts)
    family = group[int(rng.integers(len(group)))]
    return family[int(rng.integers(len(family)))]


def ink_colour(rng: np.random.Generator, ground: Ground) -> RGB:
    """A colour light or dark enough against both ends of the ground."""
    for _ in range(30):
        choice = rng.random()
        if choice < 0.3:
            colour = from_hsv(0, 0, float(rng.uniform(0, 0.3)))
        elif choice < 0.45:
            colour = (255, 255, 255)
        else:
            colour = shade(int(rng.integers(8)), rng)
        ends = (ground.first, ground.second)
        if min(lightness_gap(colour, end) for end in ends) >= TEXT_CONTRAST:
            return colour
    black, white = (0, 0, 0), (255, 255, 255)
    dark = min(lightness_gap(black, ground.first), lightness_gap(black, ground.second))
    light = min(lightness_gap(white, ground.first), lightness_gap(white, ground.second))
    return black if dark >= light else white


def sample_text(
    rng: np.random.Generator,
    width: int,
    height: int,
    ground: Ground,
    *,
    text: str,
    fonts: Fonts,
    smallness: float = 0.8,
) -> tuple[tuple[Glyph, ...], Scene] | None:
    """`text` on one line somewhere in the picture; None if it cannot be legible there.

    Sizes go from the least legible to the largest that fits; `smallness` above 1 favours small.
    """
    face = sample_face(rng, fonts)
    line = _line(rng, width, height, text=text, face=face, smallness=smallness)
    if line is None:
        return None
    em, offsets = line
    angle = float(rng.normal(0, 2.5)) if rng.random() < 0.5 else 0.0
    colour = ink_colour(rng, ground)
    turn = math.radians(angle)
    half = (offsets[-1] - offsets[0]) / 2
    reach_x = abs(half * math.cos(turn)) + 0.5 * em
    reach_y = abs(half * math.sin(turn)) + 0.6 * face.cap * em
    if 2 * reach_x > width or 2 * reach_y > height:
        return None
    centred = rng.random() < 0.4
    middle = [
        side / 2 + (0.2 if centred else 1) * float(rng.uniform(-1, 1)) * (side / 2 - reach)
        for side, reach in ((width, reach_x), (height, reach_y))
    ]
    middle_offset = offsets[0] + half
    glyphs = tuple(
        Glyph(
            character,
            face,
            em,
            (
                middle[0] + (offset - middle_offset) * math.cos(turn),
                middle[1] + (offset - middle_offset) * math.sin(turn),
            ),
            angle,
            colour,
        )
        for character, offset in zip(text, offsets, strict=True)
    )
    return glyphs, Scene(text=text, centres=_centres(glyphs, width, height))


def _centres(glyphs: tuple[Glyph, ...], width: int, height: int) -> tuple[Point, ...]:
    return tuple((g.centre[0] / width, g.centre[1] / height) for g in glyphs)


def _line(
    rng: np.random.Generator, width: int, height: int, *, text: str, face: Face, smallness: float
) -> tuple[float, list[float]] | None:
    """Size of the em and centre of each character along the base line, or None."""
    across, up = IMAGE_SIZE / width, IMAGE_SIZE / height
    advances = [face.advance[c] for c in text]
    pens = np.cumsum([0.0, *advances[:-1]])
    centres = pens + [sum(face.ink[c]) / 2 for c in text]
    gaps = np.diff(centres)
    smallest = max(CAPITAL / (face.cap * up), EM_WIDTH / across)
    largest = min(
        0.94 * width / max(sum(advances), 0.4),
        0.8 * height / face.cap,
        LARGEST_CAPITAL / (face.cap * up),
        1.4 * LARGEST_CAPITAL / across,
    )
    if smallest > largest:
        return None
    em = float(smallest * (largest / smallest) ** (rng.random() ** smallness))
    # Letter-spacing so that the narrowest pair keeps its distance; now and then more.
    tracking = 0.0
    if len(gaps):
        tracking = max(0.0, SPACING / across - em * float(gaps.min()))
        room = (0.96 * width - em * sum(advances)) / len(gaps)
        if tracking > room:
            return None
        if rng.random() < 0.25:
            tracking = float(rng.uniform(tracking, min(room, tracking + 0.4 * em)))
    return em, [em * float(c) + tracking * i for i, c in enumerate(centres)]


def sample_page(
    rng: np.random.Generator,
    width: int,
    height: int,
    ground: Ground,
    *,
    fonts: Fonts,
    smallness: float,
) -> tuple[tuple[Glyph, ...], Scene]:
    """A page full of characters, half as words on lines and half strewn about."""
    placed: list[Glyph] = []
    strewn = rng.random() < 0.5
    for _ in range(36 if strewn else 18):
        text = _page_text(rng, strewn)
        found = sample_text(rng, width, height, ground, text=text, fonts=fonts, smallness=smallness)
        if found is None:
            continue
        if not any(_clash(new, old, width, height) for new in found[0] for old in placed):
            placed += found[0]
    glyphs = tuple(placed)
    scene = Scene(
        text="".join(g.character for g in glyphs), centres=_centres(glyphs, width, height)
    )
    return glyphs, scene


def sample_block(
    rng: np.random.Generator,
    width: int,
    height: int,
    ground: Ground,
    *,
    fonts: Fonts,
    largest: float = 3.0,
) -> tuple[tuple[Glyph, ...], Scene]:
    """Lines of random characters from edge to edge: the most to learn from in one picture.

    Sizes go from the least legible to `largest` times that.
    """
    across, up = IMAGE_SIZE / width, IMAGE_SIZE / height
    glyphs: list[Glyph] = []
    growth = float(largest ** rng.random())
    top = float(rng.uniform(0, 8)) / up
    while True:
        face = sample_face(rng, fonts)
        colour = ink_colour(rng, ground)
        em = growth * max(CAPITAL / (face.cap * up), EM_WIDTH / across)
        tall = face.cap * em
        y = top + tall / 2 + 1 / up
        if y + tall / 2 > height:
            break
        x = float(rng.uniform(0.5, 10)) / across
        while True:
            character = CHARACTERS[int(rng.integers(len(CHARACTERS)))]
            left, right = face.ink[character]
            half = (right - left) * em / 2
            if x + 2 * half > width:
                break
            if glyphs and glyphs[-1].centre[1] == y:
                x = max(x, glyphs[-1].centre[0] + SPACING / across - half)
            if x + 2 * half > width:
                break
            glyphs.append(Glyph(character, face, em, (x + half, y), 0.0, colour))
            x += 2 * half + em * float(rng.uniform(0.08, 0.2))
            if rng.random() < 0.12:
                x += em
        top = y + max(tall / 2, SPACING / up - tall / 2) + tall * float(rng.uniform(0.1, 0.5))
    scene = Scene(
        text="".join(g.character for g in glyphs),
        centres=_centres(tuple(glyphs), width, height),
    )
    return tuple(glyphs), scene


def _page_text(rng: np.random.Generator, strewn: bool) -> str:
    if strewn:
        return CHARACTERS[int(rng.integers(len(CHARACTERS)))]
    return (digits, letters, mixed)[int(rng.integers(3))](rng)


def _clash(one: Glyph, other: Glyph, width: int, height: int) -> bool:
    """Whether two glyphs overlap or their centres fall into one patch."""
    dx = abs(one.centre[0] - other.centre[0])
    dy = abs(one.centre[1] - other.centre[1])
    if int(one.centre[0] / width * GRID) == int(other.centre[0] / width * GRID) and int(
        one.centre[1] / height * GRID
    ) == int(other.centre[1] / height * GRID):
        return True
    return (
        dx < one.half_width + other.half_width + 0.01 * width
        and dy < 1.1 * (one.half_height + other.half_height) + 0.01 * height
    )
