"""Shapes in the nine places: their sizes, offsets, outlines and colours."""

import math

import numpy as np

from training.world import COLOURS, SHAPES, Scene, Thing

from .colours import RGB, THING_CONTRAST, distance, from_hsv, shade
from .marks import Figure, Ground, Point

# Diameters as fractions of the shorter side of the picture; between them lies a clear gap.
SMALL = (0.14, 0.2)
LARGE = (0.3, 0.38)
# A single large thing in the centre may be larger still.
LARGEST_ALONE = 0.6
# How far a centre may lie from the middle of its place, as a fraction of the picture (a place
# is a third wide).
OFFSET = 0.1
_TRIES = 40


def sample_things(
    rng: np.random.Generator, width: int, height: int, ground: Ground, places: list[int]
) -> tuple[tuple[Figure, ...], Scene]:
    """One thing in each of `places`, clear of the others, of the border and of the ground."""
    figures: list[Figure] = []
    things: list[Thing] = []
    for place in places:
        for _ in range(_TRIES):
            size = int(rng.integers(2))
            colour = int(rng.integers(len(COLOURS)))
            shape = int(rng.integers(len(SHAPES)))
            fill = shade(colour, rng)
            if min(distance(fill, ground.first), distance(fill, ground.second)) < THING_CONTRAST:
                continue
            diameter = _diameter(rng, size, width, height, alone=places == [4])
            centre = _centre(rng, place, width, height, diameter / 2)
            if centre is None or _touches(centre, diameter / 2, figures):
                continue
            figures.append(
                _figure(rng, shape=shape, size=size, fill=fill, centre=centre, radius=diameter / 2)
            )
            things.append(Thing(shape, colour, size, place))
            break
    return tuple(figures), Scene(things=tuple(things))


def _diameter(rng: np.random.Generator, size: int, width: int, height: int, alone: bool) -> float:
    shorter, longer = sorted((width, height))
    low, high = (SMALL, LARGE)[size]
    if size == 0:
        # In a long picture a small thing is squashed: keep enough of it to tell its shape.
        low = min(low * max(1.0, longer / shorter / 1.6), 0.19)
    if size == 1 and alone and rng.random() < 0.4:
        high = LARGEST_ALONE
    return shorter * float(rng.uniform(low, high))


def _centre(
    rng: np.random.Generator, place: int, width: int, height: int, radius: float
) -> Point | None:
    """A centre within the place that keeps the thing inside the picture; None if none fits."""
    centre = []
    for cell, side in ((place % 3, width), (place // 3, height)):
        middle = (cell + 0.5) / 3
        border = radius / side + 0.012
        low = max(middle - OFFSET, border)
        high = min(middle + OFFSET, 1 - border)
        if low > high:
            return None
        centre.append(float(rng.uniform(low, high)) * side)
    return centre[0], centre[1]


def _touches(centre: Point, radius: float, figures: list[Figure]) -> bool:
    return any(math.dist(centre, f.centre) < 1.04 * (radius + f.radius) for f in figures)


def _figure(
    rng: np.random.Generator,
    *,
    shape: int,
    size: int,
    fill: RGB,
    centre: Point,
    radius: float,
) -> Figure:
    style = rng.random()
    edge, edge_width, hollow = fill, 0.0, False
    if style < 0.12:
        edge_width = radius * float(rng.uniform(0.03, 0.12))
        edge = (0, 0, 0) if rng.random() < 0.6 else from_hsv(0, 0, float(rng.uniform(0, 1)))
    elif style < 0.17 and size == 1 and SHAPES[shape] != "cross":
        edge_width, hollow = radius * float(rng.uniform(0.18, 0.3)), True
    inner = radius - edge_width / 2
    points = outline(rng, SHAPES[shape], centre, inner)
    return Figure(centre, radius, points, None if hollow else fill, edge, edge_width)


def outline(rng: np.random.Generator, name: str, centre: Point, radius: float) -> tuple[Point, ...]:
    """Corners of a shape of about this radius, a little turned; none for a circle."""
    if name == "circle":
        return ()
    turn = math.radians(float(rng.normal(0, 5))) if rng.random() < 0.6 else 0.0
    if name == "square":
        corners = [(radius * 0.88 * x, radius * 0.88 * y) for x, y in _SQUARE]
    elif name == "triangle":
        top = float(rng.uniform(0.9, 1.05))
        half = float(rng.uniform(0.88, 1.02))
        corners = [
            (0, -top * radius),
            (half * radius, 0.8 * radius),
            (-half * radius, 0.8 * radius),
        ]
    elif name == "star":
        depth = float(rng.uniform(0.36, 0.48))
        corners = [
            (
                radius * (depth if i % 2 else 1.06) * math.sin(i * math.pi / 5),
                -radius * (depth if i % 2 else 1.06) * math.cos(i * math.pi / 5),
            )
            for i in range(10)
        ]
    else:
        arm = float(rng.uniform(0.24, 0.38))
        corners = [(radius * x, radius * y) for x, y in _cross(arm)]
        if rng.random() < 0.12:
            turn += math.pi / 4
    cos, sin = math.cos(turn), math.sin(turn)
    return tuple((centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in corners)


_SQUARE = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def _cross(arm: float) -> list[Point]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners
