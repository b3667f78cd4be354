"""How many places of the context a picture takes, as each family's processor counts them.

Every class has `tile_tokens` (features of one tile), `tile_pixels` (its side), `formula` (said for
a reader) and `count(width, height)`: the features of a picture of that size in pixels and the
marks that the processor, or the chat template of the family, always puts around them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class ImageTokens(Protocol):
    """What the module says of each class."""

    @property
    def tile_tokens(self) -> int: ...  # noqa: D102
    @property
    def tile_pixels(self) -> int: ...  # noqa: D102
    @property
    def formula(self) -> str: ...  # noqa: D102
    def count(self, width: int, height: int) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class SameForAll:
    """Idefics2, LLaVA and Gemma 3: one number, whatever the picture's size."""

    tile_tokens: int
    tile_pixels: int
    tiles: int = 1
    marks: int = 0

    @property
    def formula(self) -> str:
        """`tiles x features + marks`."""
        tiles = f"{self.tiles} tiles x " if self.tiles > 1 else ""
        marks = f" + {self.marks} marks" if self.marks else ""
        return f"{tiles}{self.tile_tokens}{marks} for every picture"

    def count(self, width: int, height: int) -> int:
        """The same for every picture."""
        del width, height
        return self.tiles * self.tile_tokens + self.marks


@dataclass(frozen=True)
class ScaledTiles:
    """Idefics3 and SmolVLM: the longer side is scaled to `longest`, then cut into tiles; the whole
    picture comes once more as the last tile."""

    tile_tokens: int
    tile_pixels: int
    longest: int

    @property
    def formula(self) -> str:
        """Rows and columns of tiles, each with its marks."""
        tile = self.tile_tokens
        return (
            f"rows x (columns x ({tile} + 2) + 1) + {tile} + 3; tiles of {self.tile_pixels} "
            f"pixels, longer side scaled to {self.longest}"
        )

    def count(self, width: int, height: int) -> int:
        """A mark and a place name before each tile, a line end after each row, a mark at last."""
        rows, columns = self._grid(width, height)
        return rows * (columns * (self.tile_tokens + 2) + 1) + self.tile_tokens + 3

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        # Truncated, then made even, as the processor does.
        if width >= height:
            scaled = int(self.longest / (width / height))
        else:
            scaled = int(self.longest * (width / height))
        along = math.ceil(self.longest / self.tile_pixels)
        across = math.ceil(max(1, scaled + scaled % 2) / self.tile_pixels)
        return (across, along) if width >= height else (along, across)


@dataclass(frozen=True)
class ClosestGrid:
    """InternVL: the grid of at most `max_tiles` tiles whose shape is closest to the picture's, and
    the whole picture once more where the grid has more than one tile."""

    tile_tokens: int = 256
    tile_pixels: int = 448
    max_tiles: int = 12

    @property
    def formula(self) -> str:
        """Tiles and two marks."""
        return (
            f"{self.tile_tokens} x tiles + 2; 1 tile, or 2 to {self.max_tiles} of "
            f"{self.tile_pixels} pixels and a thumbnail"
        )

    def count(self, width: int, height: int) -> int:
        """Tiles, the thumbnail, and a mark on either side."""
        tiles = math.prod(self._grid(width, height))
        return self.tile_tokens * (tiles + (tiles > 1)) + 2

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        best, best_difference = (1, 1), math.inf
        for columns, rows in self._grids():
            difference = abs(width / height - columns / rows)
            covered = self.tile_pixels**2 * columns * rows
            # Of grids of the same shape the larger one, while the picture fills half of it.
            if difference < best_difference or (
                difference == best_difference and width * height > covered / 2
            ):
                best, best_difference = (columns, rows), difference
        return best

    def _grids(self) -> list[tuple[int, int]]:
        sides = range(1, self.max_tiles + 1)
        grids = [(c, r) for c in sides for r in sides if c * r <= self.max_tiles]
        return sorted(grids, key=math.prod)


@dataclass(frozen=True)
class OwnResolution:
    """Qwen2.5-VL and Qwen3-VL: a token a cell, the picture's own size within bounds of its area."""

    tile_pixels: int
    min_pixels: int
    max_pixels: int

    @property
    def tile_tokens(self) -> int:
        """One: a cell is the smallest tile."""
        return 1

    @property
    def formula(self) -> str:
        """Cells and two marks."""
        cell = self.tile_pixels
        return (
            f"(height / {cell}) x (width / {cell}) + 2, sides rounded to {cell} pixels, "
            f"{self.min_pixels // cell**2} to {self.max_pixels // cell**2} cells"
        )

    def count(self, width: int, height: int) -> int:
        """Cells, and the marks at the start and the end of a picture."""
        cell = self.tile_pixels
        sides = [round(side / cell) for side in (height, width)]
        area = math.prod(sides) * cell**2
        if area > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            sides = [max(1, math.floor(side / shrink / cell)) for side in (height, width)]
        elif area < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            sides = [math.ceil(side * grow / cell) for side in (height, width)]
        return math.prod(sides) + 2


@dataclass(frozen=True)
class Unpadded:
    """LLaVA-NeXT: the whole picture as one tile, then its features on the best of some canvases,
    without those of the padding and with one for each row's end."""

    tile_tokens: int = 576
    tile_pixels: int = 336
    canvases: tuple[tuple[int, int], ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))

    @property
    def formula(self) -> str:
        """The whole picture, the features within its shape, a token a row."""
        shapes = ", ".join(f"{rows}x{columns}" for rows, columns in self.canvases)
        return (
            f"{self.tile_tokens} + rows x columns + rows of features within the picture's shape; "
            f"canvases of {shapes} tiles"
        )

    def count(self, width: int, height: int) -> int:
        """Features of the whole, of the canvas without its padding, and of row ends."""
        side = math.isqrt(self.tile_tokens)
        rows, columns = (tiles * side for tiles in self._canvas(width, height))
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        return self.tile_tokens + rows * columns + rows

    def _canvas(self, width: int, height: int) -> tuple[int, int]:
        return max(self._judged(width, height))[-1]

    def _judged(self, width: int, height: int) -> Iterator[tuple[int, int, int, tuple[int, int]]]:
        for place, (rows, columns) in enumerate(self.canvases):
            tall, wide = rows * self.tile_pixels, columns * self.tile_pixels
            scale = min(wide / width, tall / height)
            used = min(int(width * scale) * int(height * scale), width * height)
            # Most of the picture kept, then least of the canvas wasted, then the first.
            yield used, used - tall * wide, -place, (rows, columns)
