"""Tiles at their true size have the features that they have when they are padded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Idefics2ForConditionalGeneration

from vlserve.models.idefics_tiles import encode_tiles, true_tiles

NUM_LATENTS, HIDDEN_SIZE = 8, 64


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    loaded: Any = Idefics2ForConditionalGeneration.from_pretrained(
        tiny_folder, attn_implementation="eager"
    )
    return loaded.eval().requires_grad_(False)


def padded(tiles: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """As the processor has them."""
    height, width = (max(tile.shape[side] for tile in tiles) for side in (1, 2))
    pixels = torch.zeros(1, len(tiles), 3, height, width)
    mask = torch.zeros(1, len(tiles), height, width, dtype=torch.long)
    for index, tile in enumerate(tiles):
        pixels[0, index, :, : tile.shape[1], : tile.shape[2]] = tile
        mask[0, index, : tile.shape[1], : tile.shape[2]] = 1
    return pixels, mask


def tiles_of(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


@pytest.mark.parametrize(
    "sizes",
    [
        [(56, 56)],
        # A picture and its quarters; with odd sides, quarters differ by a pixel.
        [(28, 28), (28, 28), (28, 28), (28, 28), (56, 56)],
        [(27, 20), (27, 21), (28, 20), (28, 21), (55, 41)],
        [(14, 56), (56, 14), (30, 45), (14, 56)],
    ],
    ids=str,
)
def test_features_equal_the_padded_ones(model: Any, sizes: list[tuple[int, int]]) -> None:
    tiles = tiles_of(sizes)
    pixels, mask = padded(tiles)
    with torch.inference_mode():
        packed = encode_tiles(model, true_tiles(pixels, mask))
        # A tensor or a list of them, by the version of Transformers.
        pooled = model.model.get_image_features(pixels, mask).pooler_output
        wanted = pooled if isinstance(pooled, torch.Tensor) else torch.cat(pooled)
        wanted = wanted.reshape(-1, HIDDEN_SIZE)
    assert packed.shape == (len(tiles) * NUM_LATENTS, HIDDEN_SIZE)
    assert torch.allclose(packed, wanted, atol=1e-5, rtol=1e-5)
    # The control: the tiles are told apart.
    assert len(sizes) == 1 or not torch.allclose(packed[:NUM_LATENTS], packed[-NUM_LATENTS:])


def test_true_tiles_are_what_was_padded() -> None:
    tiles = tiles_of([(27, 20), (28, 21), (55, 41)])
    for tile, found in zip(tiles, true_tiles(*padded(tiles)), strict=True):
        assert torch.equal(tile, found)


def test_quarters_cost_a_quarter(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tiles = tiles_of([(28, 28)] * 4 + [(56, 56)])

    def flops(run: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return int(counter.get_total_flops())

    pixels, mask = padded(tiles)
    before = flops(lambda: model.model.get_image_features(pixels, mask))
    after = flops(lambda: encode_tiles(model, tiles))
    with capsys.disabled():
        print(f"a picture in five: {before:,} operations padded, {after:,} at true sizes")
    assert after < 0.6 * before
