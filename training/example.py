"""The picture that ships beside the model, for a first question."""

from pathlib import Path

import numpy as np
from PIL import Image

from training.draw import render
from training.draw.figures import outline
from training.draw.marks import Figure, Ground, Layout, Point
from training.world import COLOURS, PLACES, SHAPES, Scene, Thing

WIDTH, HEIGHT = 320, 240
SCENE = Scene(
    (
        Thing(SHAPES.index("circle"), COLOURS.index("red"), 1, PLACES.index("top left")),
        Thing(SHAPES.index("star"), COLOURS.index("blue"), 0, PLACES.index("right")),
        Thing(SHAPES.index("triangle"), COLOURS.index("green"), 1, PLACES.index("bottom")),
    )
)
_INK = ((214, 40, 40), (32, 84, 200), (38, 150, 70))
_CENTRES: tuple[Point, ...] = ((62, 58), (262, 118), (160, 190))


def example() -> Image.Image:
    """A large red circle at the top left and two more shapes on a light ground, 320 x 240."""
    figures = []
    for thing, ink, centre in zip(SCENE.things, _INK, _CENTRES, strict=True):
        radius = HEIGHT * (0.09, 0.165)[thing.size]
        rng = np.random.default_rng(1)
        points = outline(rng, SHAPES[thing.shape], centre, radius)
        figures.append(Figure(centre, radius, points, ink, ink, 0.0))
    ground = Ground((236, 238, 240), (236, 238, 240))
    layout = Layout(WIDTH, HEIGHT, ground, tuple(figures), (), SCENE, 0.0, 0)
    return render(layout, "pil", 0)


def write_example(folder: Path) -> Path:
    """Write example.png into `folder`."""
    path = folder / "example.png"
    example().save(path, optimize=True)
    return path
