"""Pictures are the same for the same seed, labelled right, visible, and resized as served."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from training.draw import picture, reduced
from training.draw import stream as streaming
from training.draw.colours import TEXT_CONTRAST, THING_CONTRAST, distance, lightness_gap
from training.draw.fonts import families
from training.draw.grid import STEPS, label_grid, neighbour_grid, patches
from training.draw.layout import KINDS, sample
from training.world import (
    CHARACTER,
    CHARACTERS,
    GRID,
    IMAGE_SIZE,
    SHAPE,
    Scene,
    Thing,
    canonical_patch,
)

SEEDS = range(40)


@pytest.mark.parametrize("renderer", ["pil", "skia", "resvg"])
def test_same_seed_same_picture(renderer: Any) -> None:
    for kind in KINDS:
        first, scene = picture(7, kind, renderer)
        again, same = picture(7, kind, renderer)
        assert first.tobytes() == again.tobytes()
        assert scene == same
        other, _ = picture(8, kind, renderer)
        assert (first.size, first.tobytes()) != (other.size, other.tobytes())


def test_records_depend_on_index_and_total_alone() -> None:
    one = [streaming.record(3, index, 64) for index in (0, 9, 63)]
    assert one == [streaming.record(3, index, 64) for index in (0, 9, 63)]
    pictures = streaming.unpack(b"".join(one))
    assert pictures.images.shape == (3, IMAGE_SIZE, IMAGE_SIZE, 3)
    assert pictures.labels.shape == (3, GRID, GRID, 4)


def test_a_broken_record_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of records"):
        streaming.unpack(b"123")


def test_stream_starts_anywhere() -> None:
    stream = streaming.Stream(5, 2, 6)
    try:
        drawn = stream.read(4)
    finally:
        stream.close()
    expected = streaming.unpack(b"".join(streaming.record(5, index, 6) for index in range(2, 6)))
    for part, wanted in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(part, wanted)


def test_a_stream_that_ends_early_raises() -> None:
    stream = streaming.Stream(5, 0, 1)
    try:
        with pytest.raises(RuntimeError, match="drawing process ended"):
            stream.read(2)
    finally:
        stream.close()


def test_label_grid_by_hand() -> None:
    things = (Thing(shape=1, colour=0, size=1, place=0), Thing(shape=4, colour=7, size=0, place=8))
    grid = label_grid(Scene(things=things))
    assert grid[canonical_patch(0)].tolist() == [2, 1, 2, 0]
    assert grid[canonical_patch(8)].tolist() == [5, 8, 1, 0]
    assert np.count_nonzero(grid[..., SHAPE]) == 2
    text = label_grid(Scene(text="7Q", centres=((0.25, 0.55), (0.61, 0.55))))
    assert text[5, 2, CHARACTER] == CHARACTERS.index("7") + 1
    assert text[5, 6, CHARACTER] == CHARACTERS.index("Q") + 1
    assert np.count_nonzero(text) == 2


def test_neighbour_grid_by_hand() -> None:
    right_edge = Scene(text="A", centres=((0.399, 0.45),))
    assert neighbour_grid(right_edge)[4, 3] == 1 + STEPS.index((0, 1))
    assert not neighbour_grid(Scene(text="A", centres=((0.35, 0.45),))).any()
    # The column beyond holds another character of the line: no choice is left.
    pair = Scene(text="AB", centres=((0.399, 0.45), (0.45, 0.55)))
    assert neighbour_grid(pair)[4, 3] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_is_inside_apart_and_visible(kind: Any) -> None:
    for seed in SEEDS:
        layout = sample(seed, kind)
        assert 1 / 3.1 < layout.width / layout.height < 3.1
        places = [thing.place for thing in layout.scene.things]
        assert len(set(places)) == len(places)
        taken = patches(layout.scene)
        assert len(set(taken)) == len(taken)
        ends = (layout.ground.first, layout.ground.second)
        for figure in layout.figures:
            x, y = figure.centre
            assert figure.radius <= min(x, layout.width - x, y, layout.height - y)
            for colour in [figure.fill or figure.edge]:
                assert min(distance(colour, end) for end in ends) >= THING_CONTRAST
        for figure, thing in zip(layout.figures, layout.scene.things, strict=True):
            column = int(figure.centre[0] / layout.width * 3)
            row = int(figure.centre[1] / layout.height * 3)
            assert 3 * row + column == thing.place
        for glyph in layout.glyphs:
            gap = min(lightness_gap(glyph.colour, end) for end in ends)
            assert gap >= TEXT_CONTRAST or glyph.colour in {(0, 0, 0), (255, 255, 255)}
            x, y = glyph.centre
            assert 0 < x < layout.width
            assert 0 < y < layout.height


@pytest.mark.parametrize("size", [(64, 64), (800, 267), (100, 300), (80, 80), (81, 79), (50, 799)])
def test_reduction_is_that_of_the_image_processor(size: tuple[int, int]) -> None:
    picture_, _ = picture(3, "things")
    image = picture_.resize(size)
    processor = Idefics2ImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE, "longest_edge": IMAGE_SIZE}
    )
    values = processor(image, return_tensors="np")["pixel_values"][0, 0]
    ours = reduced(image).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(values, ours, atol=1e-6)


def test_evaluation_fonts_and_renderer_stay_out_of_training() -> None:
    training = {Path(face.path) for family in families("training") for face in family}
    held_out = {Path(face.path) for family in families("held-out") for face in family}
    assert training
    assert held_out
    assert not {path.parent for path in training} & {path.parent for path in held_out}
    for index in range(200):
        number = streaming.picture_seed(1, index)
        layout = sample(number, streaming.kind_of(1, index, 200))
        assert {Path(glyph.face.path) for glyph in layout.glyphs} <= training


def test_training_pictures_come_from_pil_and_skia_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> Any:
        raise AssertionError("the evaluation renderer was asked for a training picture")

    monkeypatch.setattr("training.draw.resvg.draw", refuse)
    for index in range(50):
        assert len(streaming.record(1, index, 50)) == streaming.RECORD
