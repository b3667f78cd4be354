"""Every family's tokens are `generate`'s, whatever else runs."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.asked import request
from tests.engines.collect import answer, running
from tests.families import FAMILIES, write_family
from tests.oracle import Oracle


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
