"""Streams drawn and labelled pictures from a process of its own: `python -m training.draw.stream`.

Records of a fixed size go to standard output, picture after picture, in the order of their index;
what a picture shows depends on the seed, its index and the total alone.
"""

import os
import subprocess
import sys
from argparse import ArgumentParser
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.world import GRID, IMAGE_SIZE

from . import reduced, render
from .grid import cover_grid, label_grid, neighbour_grid
from .layout import Kind, sample

_SHAPES = ((IMAGE_SIZE, IMAGE_SIZE, 3), (GRID, GRID, 4), (GRID, GRID), (GRID, GRID, 2))
_COUNTS = [int(np.prod(shape)) for shape in _SHAPES]
RECORD = sum(_COUNTS)


class Pictures(NamedTuple):
    """N pictures `u8[N, S, S, 3]` with their label, neighbour and cover grids (see `grid`)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    neighbours: NDArray[np.uint8]
    covers: NDArray[np.uint8]


def page_share(index: int, total: int) -> float:
    """The share of dense pages: 0.8 at first, less and less down to 0.25."""
    return 0.8 - 0.55 * index / total


def ease_at(index: int, total: int) -> float:
    """How much easier the picture at `index` is: from 1 to 0 over the first third."""
    return max(0.0, 1 - 3 * index / total)


def kind_of(seed: int, index: int, total: int) -> Kind:
    """Which kind of picture stands at `index` of `total`."""
    page, pick = np.random.default_rng([seed, index, 1]).random(2)
    if page < page_share(index, total):
        return "thing page" if pick < 0.35 else "strewn page" if pick < 0.5 else "line page"
    if pick < 0.35:
        return "things"
    return "digits" if pick < 0.55 else "letters" if pick < 0.9 else "mixed"


def picture_seed(seed: int, index: int) -> int:
    """The seed of the picture at `index`; evaluation uses seeds from 0 to 2**31 - 1."""
    return 2**31 + seed * 2**40 + index


def record(seed: int, index: int, total: int) -> bytes:
    """One picture with its grids as RECORD bytes."""
    number = picture_seed(seed, index)
    layout = sample(number, kind_of(seed, index, total), ease=ease_at(index, total))
    image = reduced(render(layout, "training", number))
    grids = (label_grid(layout.scene), neighbour_grid(layout.scene), cover_grid(layout))
    return b"".join(part.tobytes() for part in (image, *grids))


def unpack(data: bytes) -> Pictures:
    """Pictures from a whole number of records. Raises ValueError on anything else."""
    if len(data) % RECORD:
        raise ValueError(f"{len(data)} bytes are no whole number of records of {RECORD}")
    table = np.frombuffer(bytearray(data), np.uint8).reshape(-1, RECORD)
    parts = np.split(table, np.cumsum(_COUNTS)[:-1], axis=1)
    arrays = [p.reshape(-1, *shape) for p, shape in zip(parts, _SHAPES, strict=True)]
    return Pictures(*arrays)


class Stream:
    """Pictures from `first` on, drawn ahead by another process at a low priority."""

    def __init__(self, seed: int, first: int, total: int) -> None:
        arguments = [str(number) for number in (seed, first, total)]
        command = [sys.executable, "-m", "training.draw.stream", *arguments]
        self._process = subprocess.Popen(  # noqa: S603 (our own module, numbers as arguments)
            command, stdout=subprocess.PIPE
        )

    def read(self, count: int) -> Pictures:
        """The next `count` pictures. Raises RuntimeError if the drawing process has ended."""
        output = self._process.stdout
        data = output.read(count * RECORD) if output else b""
        if len(data) != count * RECORD:
            raise RuntimeError(f"the drawing process ended with status {self._process.poll()}")
        return unpack(data)

    def end(self) -> None:
        """Ends the drawing process; a read that waits for it raises."""
        self._process.terminate()

    def close(self) -> None:
        """Ends the drawing process and closes the pipe from it."""
        self.end()
        if self._process.stdout:
            self._process.stdout.close()
        self._process.wait()


def main() -> None:
    """Writes records until the total is reached or the reader goes away."""
    parser = ArgumentParser(description="Stream training pictures as binary records.")
    for name in ("seed", "first", "total"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    os.nice(5)
    try:
        for index in range(options.first, options.total):
            sys.stdout.buffer.write(record(options.seed, index, options.total))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
