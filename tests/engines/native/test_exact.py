"""The engine's tokens are `generate`'s, and its logits do not depend on the company."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from tests.asked import request
from tests.engines.collect import answer, running
from tests.oracle import Oracle
from tests.tiny_model import write_tiny_model
from vlserve.engines.native.engine import NativeEngine
from vlserve.types import Request, SamplingParams

VARIANTS = {
    "plain": {},
    "multi-head": {"num_kv_heads": 2},
    "sliding-window": {"sliding_window": 20},
    "splitting": {"do_image_splitting": True},
    "eos": {"eos": [2, 6, 30, 31, 32, 33, 34, 35, 36]},
}


@pytest.mark.parametrize("variant", VARIANTS)
async def test_tokens_equal_generate(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_model(tmp_path / "model", **VARIANTS[variant])
    oracle = Oracle(folder)
    rng = random.Random(variant)
    requests = [request(rng, str(i)) for i in range(24)]
    async with running(folder, max_running=5) as engine:

        async def late(index: int) -> list[int]:
            await asyncio.sleep(index * 0.004)
            return (await answer(engine, requests[index])).token_ids

        got = await asyncio.gather(*map(late, range(len(requests))))
    wanted = [oracle.answer(r.messages, r.sampling) for r in requests]
    num_equal = sum(g == w for g, w in zip(got, wanted, strict=True))
    with capsys.disabled():
        print(f"{variant}: tried {len(requests)}, equal {num_equal}")
    assert got == wanted
