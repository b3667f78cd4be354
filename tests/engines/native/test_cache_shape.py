"""How much memory the KV cache takes, on a CPU and on a GPU."""

from unittest import mock

import pytest
import torch

from vlserve.engines.native.runners.cache_shape import (
    RESERVE_BYTES,
    CacheShape,
    cache_bytes,
    left_of,
)
from vlserve.settings import CPU_CACHE_MIB, MIB

GIB = 1024 * MIB


def test_a_page_of_idefics2_8b() -> None:
    shape = CacheShape(num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128)
    assert shape.page_bytes(torch.bfloat16) == 32 * 128 * 1024
    assert shape.num_pages(512 * MIB, torch.bfloat16) == 128
    with pytest.raises(ValueError, match=r"two pages of 32 tokens take 8\.0 MiB"):
        shape.num_pages(7 * MIB, torch.bfloat16)


def test_a_gpu_gives_what_weights_and_work_leave() -> None:
    # 80 GiB, of which weights have 16: a tenth is left alone, and the reserve.
    assert left_of(64 * GIB, 80 * GIB) == 56 * GIB - RESERVE_BYTES
    assert left_of(9 * GIB, 80 * GIB) == 0


def test_what_is_set_holds_and_what_is_not_is_found_out() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert cache_bytes(64, cpu) == cache_bytes(64, cuda) == 64 * MIB
    assert cache_bytes(None, cpu) == CPU_CACHE_MIB * MIB
    card = mock.patch("torch.cuda.mem_get_info", return_value=(64 * GIB, 80 * GIB))
    with card, mock.patch("torch.cuda.empty_cache"):
        assert cache_bytes(None, cuda) == left_of(64 * GIB, 80 * GIB)
