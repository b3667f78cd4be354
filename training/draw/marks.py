"""What a picture is made of, in pixels of the whole picture: all that a renderer needs to know."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world import Scene

from .colours import RGB
from .fonts import Face

Point = tuple[float, float]


@dataclass(frozen=True)
class Ground:
    """A plain (`first == second`) or graded ground along `angle` radians, with grain.

    `grain` is the standard deviation of the noise in grey levels, drawn in `cells` x `cells`.
    """

    first: RGB
    second: RGB
    angle: float = 0.0
    grain: float = 0.0
    cells: int = 64
    seed: int = 0

    def tile(self) -> NDArray[np.uint8]:
        """The ground as `u8[cells, cells, 3]` (1 x 1 when plain), to be stretched over all."""
        if self.first == self.second and self.grain == 0:
            return np.array([[self.first]], np.uint8)
        step = np.linspace(-0.5, 0.5, self.cells)
        along = step * np.cos(self.angle) + step[:, None] * np.sin(self.angle)
        along = (along - along.min()) / max(np.ptp(along), 1e-9)
        first, second = np.array(self.first, float), np.array(self.second, float)
        tile = first + along[..., None] * (second - first)
        if self.grain:
            noise = np.random.default_rng(self.seed).normal(0, self.grain, tile.shape)
            tile = tile + noise
        result: NDArray[np.uint8] = tile.clip(0, 255).round().astype(np.uint8)
        return result


@dataclass(frozen=True)
class Figure:
    """A filled disc of `radius` around `centre`, or the polygon `points`.

    `fill` None leaves the inside empty; `edge_width` 0 draws no edge.
    """

    centre: Point
    radius: float
    points: tuple[Point, ...]
    fill: RGB | None
    edge: RGB
    edge_width: float


@dataclass(frozen=True)
class Glyph:
    """One printed character, turned by `angle` degrees clockwise about `centre`.

    `centre` is the middle of its ink across and of the capital height up; `em` in pixels.
    """

    character: str
    face: Face
    em: float
    centre: Point
    angle: float
    colour: RGB

    @property
    def half_width(self) -> float:
        """Half the width of its ink in pixels."""
        left, right = self.face.ink[self.character]
        return (right - left) * self.em / 2

    @property
    def half_height(self) -> float:
        """Half the height of a capital in pixels."""
        return self.face.cap * self.em / 2

    @property
    def pen(self) -> Point:
        """Where the pen starts on the base line, relative to `centre`, before turning."""
        left, right = self.face.ink[self.character]
        return -(left + right) / 2 * self.em, self.face.cap * self.em / 2


@dataclass(frozen=True)
class Layout:
    """A picture before it is drawn, and what it shows.

    `blur` is a Gaussian radius in pixels; `jpeg` a quality, 0 for none.
    """

    width: int
    height: int
    ground: Ground
    figures: tuple[Figure, ...]
    glyphs: tuple[Glyph, ...]
    scene: Scene
    blur: float
    jpeg: int
