"""A decode row's attention has the same bits whatever the company, the padding and the threads."""

from collections.abc import Iterator

import pytest
import torch

from vlserve.engines.native.cpu import threads as team
from vlserve.engines.native.cpu.batch import Batch, DecodeRows, decode_rows
from vlserve.engines.native.cpu.packed_linear import pack_linears
from vlserve.engines.native.cpu.slot_attention import slot_attention
from vlserve.engines.native.cpu.slot_cache import SlotCache
from vlserve.engines.native.runners.cache_shape import CacheShape

NUM_SLOTS, NUM_TOKENS, HEAD_DIM = 8, 1040, 32
LENGTHS = (3, 16, 37, 130, 208, 300, 513, 1030)


class Layer:
    layer_idx = 0


class Row:
    """As much of a sequence as a batch is made from."""

    def __init__(self, slot: int, num_tokens: int) -> None:
        self.slot = slot
        self.num_tokens = num_tokens


@pytest.fixture(params=[1, 2, 4])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(1, 1), (4, 4), (4, 1), (8, 2)])
def test_rows_do_not_depend_on_each_other(
    num_threads: int, num_heads: int, num_kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(num_threads)
    monkeypatch.setattr(team, "PART_BYTES", 1024)  # so that they are divided, few as they are
    cache = SlotCache(
        CacheShape(1, num_heads, num_kv_heads, HEAD_DIM),
        num_slots=NUM_SLOTS,
        num_tokens=NUM_TOKENS,
        dtype=torch.float32,
        num_pages=1,
    )
    for slot, length in enumerate(LENGTHS):
        cache.keys[0][slot, :, :length].normal_()
        cache.values[0][slot, :, :length].normal_()
    query = torch.randn(1, num_heads, NUM_SLOTS, HEAD_DIM)
    key = torch.randn(1, num_kv_heads, NUM_SLOTS, HEAD_DIM)
    value = torch.randn(1, num_kv_heads, NUM_SLOTS, HEAD_DIM)

    shared = team.Team(num_threads)

    def attend(slots: list[int], window: int | None = None) -> torch.Tensor:
        rows: DecodeRows = decode_rows(
            [Row(slot, LENGTHS[slot]) for slot in slots],  # type: ignore[misc]
            dtype=torch.float32,
            device=torch.device("cpu"),
            reaches={None, window},
        )
        empty = torch.empty(0)
        batch = Batch(cache, empty, empty, {}, empty, rows, (), num_padding=0, team=shared)
        out, _ = slot_attention(
            Layer(),
            query[:, :, slots],
            key[:, :, slots],
            value[:, :, slots],
            None,
            scaling=HEAD_DIM**-0.5,
            slot_batch=batch,
            sliding_window=window,
        )
        return out[0]

    for window in (None, 50):
        alone = torch.cat([attend([slot], window) for slot in range(NUM_SLOTS)])
        assert alone.isfinite().all()
        for slots in ([*range(NUM_SLOTS)], [0, 7], [1, 2, 3], [2, 5], [0, 3, 4, 6]):
            assert torch.equal(attend(slots, window), alone[slots])


@pytest.mark.parametrize("features", [(128, 384), (384, 128), (4096, 256), (64, 340)])
def test_packed_linears_do_not_depend_on_their_rows(
    num_threads: int, features: tuple[int, int]
) -> None:
    torch.manual_seed(num_threads)
    plain = torch.nn.Linear(*features, bias=False)
    layer = torch.nn.Sequential(plain)
    rows = torch.randn(150, features[0])
    with torch.inference_mode():
        assert pack_linears(layer)
        assert layer[0] is not plain
        whole = layer(rows)
        assert torch.allclose(whole, plain(rows), atol=1e-4)
        for count in (*range(1, 40), 100, 128, 150):
            assert torch.equal(layer(rows[:count]), whole[:count])
            assert torch.equal(layer(rows[None, -count:])[0], whole[-count:])
