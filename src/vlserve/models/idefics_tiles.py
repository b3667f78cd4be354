"""Tiles of pictures through Idefics2's tower at their true size.

The processor pads every tile of a request to the largest, and the padding costs as much as a
picture does: a 980 x 980 picture with its four quarters is 2.85 times the work it need be.
"""

from collections.abc import Sequence
from typing import Any

import torch

from vlserve.models.transfer import to_device


def true_tiles(
    pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor
) -> list[torch.Tensor]:
    """What the processor padded, without its padding: `[3, h, w]` each, views.

    `pixel_values` `[1, N, 3, H, W]` and `pixel_attention_mask` `[1, N, H, W]`, 1 in the tile's
    rectangle from the upper left on. On the CPU: sizes are read from the mask.
    """
    tiles = []
    for pixels, mask in zip(pixel_values[0], pixel_attention_mask[0], strict=True):
        height, width = int((mask[:, 0] != 0).sum()), int((mask[0] != 0).sum())
        tiles.append(pixels[:, :height, :width])
    return tiles


def encode_tiles(model: Any, tiles: Sequence[torch.Tensor]) -> torch.Tensor:
    """The features that the decoder sees, `[num_tiles * num_latents, hidden_size]`, tile by tile.

    `model` is an `Idefics2ForConditionalGeneration`, `tiles` `[3, h, w]` each, at least one patch
    high and wide, on any device. Tiles of the same number of patches go through the tower
    together; the numbers are those of the padded way, but for rounding.
    """
    whole = model.model
    patch = whole.config.vision_config.patch_size
    groups: dict[tuple[int, int], list[int]] = {}
    for index, tile in enumerate(tiles):
        groups.setdefault((tile.shape[1] // patch, tile.shape[2] // patch), []).append(index)
    features: dict[int, torch.Tensor] = {}
    for (rows, columns), members in groups.items():
        # The rest of a patch at the lower and the right edge is not looked at, padded or not.
        pixels = torch.stack([tiles[i][:, : rows * patch, : columns * patch] for i in members])
        pixels = (pixels if pixels.is_cuda else to_device(pixels, whole.device)).to(whole.dtype)
        hidden = whole.vision_model(pixel_values=pixels).last_hidden_state
        is_patch = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        encoded = whole.connector(hidden, attention_mask=is_patch)
        features |= dict(zip(members, encoded, strict=True))
    return torch.cat([features[index] for index in range(len(tiles))])
