"""Draws as SVG through resvg. For evaluation only: no training picture may come from here."""

import io
import math
from functools import cache

import resvg_py
from PIL import Image, ImageFont

from .colours import RGB
from .marks import Figure, Glyph, Layout


def draw(layout: Layout) -> Image.Image:
    """The picture in RGB, without blur, JPEG and grain."""
    fonts = sorted({glyph.face.path for glyph in layout.glyphs})
    data = resvg_py.svg_to_bytes(
        svg_string=svg(layout), font_files=fonts or None, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(bytes(data))).convert("RGB")


def svg(layout: Layout) -> str:
    """The picture as an SVG document."""
    ground = layout.ground
    cos, sin = math.cos(ground.angle) / 2, math.sin(ground.angle) / 2
    marks = [_figure(figure) for figure in layout.figures]
    marks += [_glyph(glyph) for glyph in layout.glyphs]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{layout.width}" height="{layout.height}">'
        f'<linearGradient id="g" x1="{0.5 - cos}" y1="{0.5 - sin}"'
        f' x2="{0.5 + cos}" y2="{0.5 + sin}">'
        f'<stop offset="0" stop-color="{_colour(ground.first)}"/>'
        f'<stop offset="1" stop-color="{_colour(ground.second)}"/></linearGradient>'
        f'<rect width="100%" height="100%" fill="url(#g)"/>{"".join(marks)}</svg>'
    )


def _colour(colour: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _figure(figure: Figure) -> str:
    fill = "none" if figure.fill is None else _colour(figure.fill)
    paint = f'fill="{fill}"'
    if figure.edge_width:
        paint += f' stroke="{_colour(figure.edge)}" stroke-width="{figure.edge_width:.2f}"'
    if figure.points:
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in figure.points)
        return f'<polygon points="{points}" {paint}/>'
    x, y = figure.centre
    radius = figure.radius - figure.edge_width / 2
    return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius:.2f}" {paint}/>'


@cache
def _family(path: str) -> str:
    name = ImageFont.truetype(path, 10).getname()[0]
    if name is None:
        raise ValueError(f"the font {path} names no family")
    return name


def _glyph(glyph: Glyph) -> str:
    x, y = glyph.pen
    return (
        f'<text x="{x:.2f}" y="{y:.2f}" font-size="{glyph.em:.2f}"'
        f' font-family="\'{_family(glyph.face.path)}\'" fill="{_colour(glyph.colour)}"'
        f' transform="translate({glyph.centre[0]:.2f} {glyph.centre[1]:.2f})'
        f' rotate({glyph.angle:.2f})">{glyph.character}</text>'
    )
