"""Every family's tokens are `generate`'s, whatever else runs."""

import asyncio
import random
from pathlib import Path

import pytest
import torch

from tests.asked import picture, request
from tests.engines.collect import answer, recorded_logits, running
from tests.families import FAMILIES, write_family
from tests.oracle import Oracle
from vlserve.types import Message, Request, Role, SamplingParams


@pytest.mark.parametrize("family", FAMILIES)
async def test_tokens_equal_generate(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_family(family, tmp_path / "model")
    oracle = Oracle(folder)
    rng = random.Random(family)
    requests = [request(rng, str(i)) for i in range(18)]
    async with running(folder, max_running=5) as engine:

        async def late(index: int) -> list[int]:
            await asyncio.sleep(index * 0.004)
            return (await answer(engine, requests[index])).token_ids

        got = await asyncio.gather(*map(late, range(len(requests))))
    wanted = [oracle.answer(r.messages, r.sampling) for r in requests]
    num_equal = sum(g == w for g, w in zip(got, wanted, strict=True))
    num_pictures = sum(len(list(m.pictures())) for r in requests for m in r.messages)
    with capsys.disabled():
        print(f"{family}: {num_pictures} pictures, tried {len(requests)}, equal {num_equal}")
    assert got == wanted


@pytest.mark.parametrize("family", FAMILIES)
async def test_logits_are_bitwise_equal_alone_and_in_a_batch(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(family)
    requests = [request(rng, str(i)) for i in range(8)]
    async with running(write_family(family, tmp_path / "model"), max_running=5) as engine:
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
        print(f"{family}: logits of {num_rows} steps, bitwise equal in a batch {num_equal}")
    assert num_equal == num_rows


@pytest.mark.parametrize("family", FAMILIES)
async def test_swapped_pictures_change_the_logits(family: str, tmp_path: Path) -> None:
    rng = random.Random(family)
    first, second = picture(rng), picture(rng)
    async with running(write_family(family, tmp_path / "model")) as engine:
        logits = recorded_logits(engine)
        for name, pictures in (("as drawn", (first, second)), ("swapped", (second, first))):
            turn = Message(Role.USER, (*pictures, "what is in the picture?"))
            await answer(engine, Request(name, (turn,), SamplingParams(max_tokens=1)))
    difference = (logits["as drawn"][0] - logits["swapped"][0]).abs().max()
    assert difference > 1e-3
