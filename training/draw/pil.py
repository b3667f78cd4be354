"""Draws with Pillow, larger than needed where the picture is small, then reduced."""

import math
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from .marks import Figure, Glyph, Layout


def draw(layout: Layout) -> Image.Image:
    """The picture in RGB, without blur and JPEG."""
    scale = max(1, min(4, math.ceil(320 / max(layout.width, layout.height))))
    size = (layout.width * scale, layout.height * scale)
    tile = Image.fromarray(layout.ground.tile())
    picture = tile.resize(size, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    for figure in layout.figures:
        _figure(pen, figure, scale)
    for glyph in layout.glyphs:
        _glyph(picture, glyph, scale)
    if scale > 1:
        picture = picture.reduce(scale)
    return picture


def _figure(pen: ImageDraw.ImageDraw, figure: Figure, scale: int) -> None:
    width = max(1, round(figure.edge_width * scale)) if figure.edge_width else 0
    edge = figure.edge if width else None
    if not figure.points:
        x, y = figure.centre[0] * scale, figure.centre[1] * scale
        radius = figure.radius * scale
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, figure.fill, edge, max(width, 1))
        return
    points = [(x * scale, y * scale) for x, y in figure.points]
    if figure.fill is not None:
        pen.polygon(points, figure.fill)
    if width:
        pen.line([*points, points[0], points[1]], figure.edge, width, joint="curve")


@lru_cache(512)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _glyph(picture: Image.Image, glyph: Glyph, scale: int) -> None:
    em = glyph.em * scale
    font = _font(glyph.face.path, max(4, round(em)))
    side = 2 * math.ceil(0.85 * em) + 2
    mask = Image.new("L", (side, side))
    x, y = glyph.centre[0] * scale - side / 2, glyph.centre[1] * scale - side / 2
    left, top = math.floor(x), math.floor(y)
    dx, dy = glyph.pen
    origin = (side / 2 + x - left + dx * scale, side / 2 + y - top + dy * scale)
    ImageDraw.Draw(mask).text(origin, glyph.character, 255, font, anchor="ls")
    if glyph.angle:
        mask = mask.rotate(-glyph.angle, Image.Resampling.BILINEAR)
    picture.paste(glyph.colour, (left, top), mask)
