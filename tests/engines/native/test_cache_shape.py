"""How much memory the KV cache takes."""

import pytest
import torch

from vlserve.catalogue.presets import find
from vlserve.engines.native.runners.cache_shape import CacheShape, cache_bytes
from vlserve.engines.native.scheduling.pages import PAGE
from vlserve.settings import CPU_CACHE_MIB, MIB


def test_a_page_of_idefics2_8b() -> None:
    shape = CacheShape(num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128)
    assert shape.page_bytes(torch.bfloat16) == 32 * 128 * 1024
    assert shape.num_pages(512 * MIB, torch.bfloat16) == 128
    with pytest.raises(ValueError, match=r"two pages of 32 tokens take 8\.0 MiB"):
        shape.num_pages(7 * MIB, torch.bfloat16)


def test_room_beside_the_pages_counts() -> None:
    shape = CacheShape(num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128)
    page = shape.page_bytes(torch.bfloat16)
    assert shape.num_pages(512 * MIB, torch.bfloat16, beside=page) == 64


def test_what_is_set_holds_and_a_cpu_has_a_bound_of_its_own() -> None:
    assert cache_bytes(64) == 64 * MIB
    assert cache_bytes(None) == CPU_CACHE_MIB * MIB


def test_the_catalogue_and_the_engine_say_the_same() -> None:
    """Both by the one formula, and the control by hand."""
    preset = find("idefics2-8b")
    shape = CacheShape(
        num_layers=preset.decoder.layers,
        num_heads=32,
        num_kv_heads=preset.decoder.kv_heads,
        head_dim=preset.decoder.head_dim,
    )
    assert shape.page_bytes(torch.bfloat16) == preset.decoder.cache_bytes(PAGE, "bfloat16")
    assert preset.decoder.cache_bytes(1, "bfloat16") == 128 * 1024
