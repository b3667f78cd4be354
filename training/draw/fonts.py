"""The fonts that pictures are printed in: families for training, and others kept for evaluation."""

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from PIL import ImageFont

from training.world import CHARACTERS

Fonts = Literal["training", "held-out"]

# (family, package, folder in the package, glob of the upright and italic faces).
# Faces too thin to survive the reduction to 80 pixels are left out.
TRAINING = (
    ("Roboto", "font_roboto", "files", "Roboto-*.ttf"),
    ("Source Sans Pro", "font_source_sans_pro", "files", "SourceSansPro-*.ttf"),
    ("Source Serif Pro", "font_source_serif_pro", "files", "SourceSerifPro-*.ttf"),
    ("Caladea", "font_caladea", "files", "Caladea-*.ttf"),
    ("Fjalla One", "font_fjallaone", "files", "FjallaOne-*.ttf"),
    ("Fredoka One", "font_fredoka_one", "files", "FredokaOne-*.ttf"),
    ("Manrope", "font_manrope", "files", "Manrope-*.ttf"),
    ("DejaVu Sans", "matplotlib", "mpl-data/fonts/ttf", "DejaVuSans*.ttf"),
    ("DejaVu Sans", "matplotlib", "mpl-data/fonts/ttf", "DejaVuSans*.ttf"),
    ("DejaVu Serif", "matplotlib", "mpl-data/fonts/ttf", "DejaVuSerif*.ttf"),
    ("STIX", "matplotlib", "mpl-data/fonts/ttf", "STIXGeneral*.ttf"),
    ("Computer Modern", "matplotlib", "mpl-data/fonts/ttf", "cm[rbst]*10.ttf"),
)
HELD_OUT = (
    ("Lato", "font_lato", "files", "Lato-*.ttf"),
    ("Hanken Grotesk", "font_hanken_grotesk", "files", "HankenGrotesk-*.otf"),
)
_LEFT_OUT = ("Thin", "ExtraLight", "Variable", "Display", "cmsy")
_REFERENCE = 200


@dataclass(frozen=True)
class Face:
    """One font file and its metrics in ems.

    `ink` holds (left, right) of each character from the pen position; `cap` is the height of H.
    """

    family: str
    path: str
    advance: dict[str, float]
    ink: dict[str, tuple[float, float]]
    cap: float


@cache
def families(fonts: Fonts) -> tuple[tuple[Face, ...], ...]:
    """The faces of each family. Raises FileNotFoundError if a font package is not installed."""
    listed = TRAINING if fonts == "training" else HELD_OUT
    return tuple(_faces(*entry) for entry in listed)


def _faces(family: str, package: str, folder: str, pattern: str) -> tuple[Face, ...]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the font package {package} of {family} is not installed")
    root = Path(spec.submodule_search_locations[0]) / folder
    paths = [p for p in sorted(root.glob(pattern)) if not any(w in p.name for w in _LEFT_OUT)]
    if not paths:
        raise FileNotFoundError(f"the package {package} holds no {pattern} of {family}")
    return tuple(_measure(family, str(path)) for path in paths)


def _measure(family: str, path: str) -> Face:
    font = ImageFont.truetype(path, _REFERENCE)
    ink = {}
    for character in CHARACTERS:
        left, _, right, _ = font.getbbox(character, anchor="ls")
        ink[character] = (left / _REFERENCE, right / _REFERENCE)
    advance = {c: font.getlength(c) / _REFERENCE for c in CHARACTERS}
    return Face(family, path, advance, ink, -font.getbbox("H", anchor="ls")[1] / _REFERENCE)
