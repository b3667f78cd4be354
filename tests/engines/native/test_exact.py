"""The engine's tokens are `generate`'s, and its logits do not depend on the company."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import vlserve.models
from bench.workload import requests
from tests.asked import request
from tests.engines.collect import answer, recorded_logits, running
from tests.oracle import Oracle
from tests.tiny_model import write_tiny_model
from vlserve.models.families import EMBEDDED
from vlserve.models.folder import model_folder

VARIANTS: dict[str, dict[str, Any]] = {
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


@pytest.mark.skipif(
    not (Path(vlserve.models.__file__).parent / EMBEDDED).is_dir(),
    reason="the embedded model is not in this tree",
)
async def test_the_embedded_model_too(capsys: pytest.CaptureFixture[str]) -> None:
    folder = model_folder(EMBEDDED)
    oracle = Oracle(folder)
    asked = requests(seed=1, num_requests=24)
    async with running(folder, max_running=7, cache_mib=64) as engine:
        got = await asyncio.gather(*(answer(engine, each) for each in asked))
    wanted = [oracle.answer(each.messages, each.sampling) for each in asked]
    num_equal = sum(g.token_ids == w for g, w in zip(got, wanted, strict=True))
    with capsys.disabled():
        print(f"embedded: tried {len(asked)}, equal {num_equal}")
    assert [each.token_ids for each in got] == wanted
    assert [each.text for each in got] == list(map(oracle.text, wanted))


async def test_logits_are_bitwise_equal_alone_and_in_a_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)
    requests = [request(rng, str(i)) for i in range(24)]
    async with running(write_tiny_model(tmp_path / "model"), max_running=7) as engine:
        logits = recorded_logits(engine)
        for each in requests:
            await answer(engine, each)
        alone = dict(logits)
        logits.clear()
        await asyncio.gather(*(answer(engine, each) for each in requests))
    num_rows = sum(map(len, alone.values()))
    num_equal = sum(
        torch.equal(a, b) for name in alone for a, b in zip(alone[name], logits[name], strict=True)
    )
    with capsys.disabled():
        print(f"logits of {num_rows} steps, bitwise equal in a batch {num_equal}")
    assert num_equal == num_rows
