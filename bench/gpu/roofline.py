"""What the device could do at best: bytes of a decode step, arithmetic of a picture and a prompt.

A step reads every weight of the decoder but the table of embeddings, of which it takes a row, and
the keys and values of every token to look at.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Memory bandwidth by the datasheet, bytes/s, by what the device's name contains. The SXM cards.
DATASHEET = {"H200": 4.8e12, "H100": 3.35e12}
COPY_BYTES = 4 << 30
MATMUL_SIZE = 8192


@dataclass(frozen=True, slots=True)
class DecodeBytes:
    """`weights`: read once a step; `per_token`: keys and values of one token, all layers."""

    weights: int
    per_token: int

    def of_step(self, batch: int, context: int) -> int:
        """Bytes that a step over `batch` rows of `context` tokens reads."""
        return self.weights + batch * context * self.per_token


def decode_bytes(config: Any, dtype: torch.dtype) -> DecodeBytes:
    """Counted from a Mistral's configuration."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    attention = (
        2 * hidden * config.head_dim * (config.num_attention_heads + config.num_key_value_heads)
    )
    layer = attention + 3 * hidden * config.intermediate_size + 2 * hidden
    weights = layers * layer + hidden + config.vocab_size * hidden
    per_token = 2 * layers * config.num_key_value_heads * config.head_dim
    return DecodeBytes(weights * dtype.itemsize, per_token * dtype.itemsize)


def prompt_flops(config: Any, num_tokens: int) -> float:
    """Of a prompt, its last token's logits included."""
    layers = decode_bytes(config, torch.int8).weights - config.vocab_size * config.hidden_size
    width = config.num_attention_heads * config.head_dim
    attention = 2 * config.num_hidden_layers * num_tokens**2 * width
    head = 2 * config.vocab_size * config.hidden_size
    return float(2 * num_tokens * layers + attention + head)


def image_flops(config: Any, tiles: Sequence[int]) -> float:
    """Of tiles of so many patches each, through the tower, the projection and the perceiver."""
    return float(sum(_tile_flops(config, num_patches) for num_patches in tiles))


def _tile_flops(config: Any, num_patches: int) -> float:
    vision, text, perceiver = config.vision_config, config.text_config, config.perceiver_config
    width, layers = vision.hidden_size, vision.num_hidden_layers
    linear = layers * (4 * width**2 + 2 * width * vision.intermediate_size)
    patch = 3 * vision.patch_size**2 * width
    tower = 2 * num_patches * (linear + patch) + 4 * layers * num_patches**2 * width
    middle, hidden = text.intermediate_size, text.hidden_size
    projection = 2 * num_patches * (2 * width * middle + middle * hidden)
    latents, heads = perceiver.resampler_n_latents, perceiver.resampler_n_heads
    key_width = perceiver.num_key_value_heads * perceiver.resampler_head_dim
    query_width = heads * perceiver.resampler_head_dim
    seen = num_patches + latents
    layer = (
        2 * seen * hidden * 2 * key_width
        + 2 * latents * hidden * 2 * query_width
        + 2 * latents * 3 * hidden * 4 * hidden
        + 4 * latents * seen * query_width
    )
    return float(tower + projection + perceiver.resampler_depth * layer)


def seconds(run: Callable[[], object], device: torch.device, *, repeats: int = 5) -> float:
    """The median of `repeats` runs after two more, from start to the end on the device."""
    times = []
    for index in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        if index >= 2:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def synchronize(device: torch.device) -> None:
    """Wait for what the device has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device, num_bytes: int = COPY_BYTES) -> float:
    """Bytes read and written a second by one large copy."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / seconds(lambda: target.copy_(source), device)


def matmul_flops(device: torch.device, dtype: torch.dtype, size: int = MATMUL_SIZE) -> float:
    """Floating-point operations a second of one large product."""
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    return float(2 * size**3 / seconds(lambda: left @ right, device))


def datasheet_bandwidth(name: str) -> float | None:
    """Bytes a second, None for a device that is not in the table."""
    return next((value for known, value in DATASHEET.items() if known in name), None)
