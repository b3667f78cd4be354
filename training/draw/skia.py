"""Draws with Skia, anti-aliased at the size of the picture."""

from functools import lru_cache

import skia
from PIL import Image

from .colours import RGB
from .marks import Figure, Glyph, Layout


def draw(layout: Layout) -> Image.Image:
    """The picture in RGB, without blur and JPEG."""
    surface = skia.Surface(layout.width, layout.height)
    canvas = surface.getCanvas()
    tile = Image.fromarray(layout.ground.tile())
    if tile.size == (1, 1):
        canvas.clear(_colour(layout.ground.first))
    else:
        ground = tile.resize((layout.width, layout.height), Image.Resampling.BICUBIC)
        pixels = ground.convert("RGBA").tobytes()
        canvas.drawImage(skia.Image.frombytes(pixels, ground.size, _RGBA), 0, 0)
    for figure in layout.figures:
        _figure(canvas, figure)
    for glyph in layout.glyphs:
        _glyph(canvas, glyph)
    drawn = surface.makeImageSnapshot().toarray(colorType=_RGBA)
    return Image.fromarray(drawn).convert("RGB")


_RGBA = skia.ColorType.kRGBA_8888_ColorType


def _colour(colour: RGB) -> int:
    return int(skia.Color(*colour))


def _figure(canvas: skia.Canvas, figure: Figure) -> None:
    path = skia.Path()
    if figure.points:
        path.addPoly([skia.Point(x, y) for x, y in figure.points], True)
    else:
        path.addCircle(*figure.centre, figure.radius - figure.edge_width / 2)
    if figure.fill is not None:
        canvas.drawPath(path, skia.Paint(Color=_colour(figure.fill), AntiAlias=True))
    if figure.edge_width:
        stroke = skia.Paint(
            Color=_colour(figure.edge),
            AntiAlias=True,
            Style=skia.Paint.kStroke_Style,
            StrokeWidth=figure.edge_width,
        )
        canvas.drawPath(path, stroke)


@lru_cache(256)
def _typeface(path: str) -> skia.Typeface:
    typeface = skia.Typeface.MakeFromFile(path)
    if typeface is None:
        raise ValueError(f"skia cannot read the font {path}")
    return typeface


def _glyph(canvas: skia.Canvas, glyph: Glyph) -> None:
    font = skia.Font(_typeface(glyph.face.path), glyph.em)
    font.setSubpixel(True)
    font.setHinting(skia.FontHinting.kNone)
    canvas.save()
    canvas.translate(*glyph.centre)
    canvas.rotate(glyph.angle)
    paint = skia.Paint(Color=_colour(glyph.colour), AntiAlias=True)
    canvas.drawString(glyph.character, *glyph.pen, font, paint)
    canvas.restore()
