"""Shades of the named colours, grounds, and the rule that keeps what is drawn visible."""

import colorsys

import numpy as np

from training.world import COLOURS

RGB = tuple[int, int, int]

# Hue in degrees, saturation, value: (low, high) each.
_SHADES = {
    "red": ((-8, 8), (0.78, 1), (0.65, 1)),
    "green": ((95, 150), (0.5, 1), (0.4, 0.9)),
    "blue": ((212, 245), (0.6, 1), (0.5, 1)),
    "yellow": ((48, 60), (0.75, 1), (0.88, 1)),
    "orange": ((22, 37), (0.85, 1), (0.88, 1)),
    "purple": ((270, 302), (0.45, 1), (0.4, 0.85)),
    "black": ((0, 360), (0, 0.3), (0, 0.13)),
    "white": ((0, 360), (0, 0.04), (0.94, 1)),
}
_PURE = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
# Least distance in CIE Lab between a thing and its ground, and least difference of lightness
# between a character and its ground.
THING_CONTRAST = 32.0
TEXT_CONTRAST = 35.0


def shade(colour: int, rng: np.random.Generator) -> RGB:
    """A shade that people call COLOURS[colour]; one time in four the plain one of the web."""
    name = COLOURS[colour]
    if rng.random() < 0.25:
        return _PURE[name]
    hue, saturation, value = (rng.uniform(*span) for span in _SHADES[name])
    return from_hsv(hue, saturation, value)


def from_hsv(hue: float, saturation: float, value: float) -> RGB:
    """Hue in degrees, the others from 0 to 1."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def lab(colour: RGB) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of an sRGB colour."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (part / 255 for part in colour)
    ]
    r, g, b = linear
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def distance(one: RGB, other: RGB) -> float:
    """CIE76 colour difference."""
    return float(np.linalg.norm(np.subtract(lab(one), lab(other))))


def lightness_gap(one: RGB, other: RGB) -> float:
    """Difference of CIE lightness, 0 to 100."""
    return abs(lab(one)[0] - lab(other)[0])


def ground_colour(rng: np.random.Generator) -> RGB:
    """A ground: most often white or light, else grey, dark or saturated."""
    choice = rng.random()
    if choice < 0.2:
        return 255, 255, 255
    if choice < 0.5:
        return from_hsv(rng.uniform(0, 360), rng.uniform(0, 0.25), rng.uniform(0.82, 1))
    if choice < 0.66:
        return from_hsv(rng.uniform(0, 360), rng.uniform(0, 0.08), rng.uniform(0.2, 0.9))
    if choice < 0.82:
        return from_hsv(rng.uniform(0, 360), rng.uniform(0, 0.7), rng.uniform(0, 0.3))
    return from_hsv(rng.uniform(0, 360), rng.uniform(0.2, 1), rng.uniform(0.3, 1))
