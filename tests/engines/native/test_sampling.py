"""Drawn tokens are `generate`'s for the same seed, alone and in company."""

import asyncio
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.asked import request
from tests.engines.collect import answer, running
from tests.oracle import Oracle
from vlserve.errors import Code, ServeError
from vlserve.types import SamplingParams

SAMPLINGS = [
    SamplingParams(max_tokens=20, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    for seed, (temperature, top_k, top_p) in enumerate(
        [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 5, 1.0), (1.0, 0, 0.6), (1.3, 20, 0.9), (2.0, 0, 0.95)]
        * 2
    )
]


async def test_seeded_answers_are_generates_alone_and_in_a_batch(
    tiny_folder: Path, oracle: Oracle, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(2)
    requests = [request(rng, str(i), sampling=s) for i, s in enumerate(SAMPLINGS)]
    async with running(tiny_folder, max_running=5) as engine:
        alone = [(await answer(engine, each)).token_ids for each in requests]
        together = await asyncio.gather(*(answer(engine, each) for each in requests))
    wanted = [oracle.answer(each.messages, each.sampling) for each in requests]
    assert [each.token_ids for each in together] == alone
    assert alone == wanted
    with capsys.disabled():
        print(f"sampled answers tried {len(wanted)}, equal {len(wanted)}")


async def test_without_a_seed_answers_differ(tiny_folder: Path) -> None:
    free = SamplingParams(max_tokens=20, temperature=2.0)
    asked = request(random.Random(2), "r", sampling=free)
    async with running(tiny_folder) as engine:
        texts = {(await answer(engine, asked)).text for _ in range(3)}
    assert len(texts) > 1


async def test_what_cannot_be_sampled_fails_alone(tiny_folder: Path) -> None:
    rng = random.Random(2)
    requests = [request(rng, str(i), sampling=SAMPLINGS[i % 2]) for i in range(4)]
    async with running(tiny_folder) as engine:
        alone = [(await answer(engine, each)).token_ids for each in requests]
        sample = engine._sampler.sample

        def poisoned(logits: torch.Tensor, sequences: tuple[object, ...]) -> object:
            for row, sequence in zip(logits, sequences, strict=True):
                if sequence.id == "2" and len(sequence.token_ids) == 3:  # type: ignore[attr-defined]
                    row.fill_(math.nan)
            return sample(logits, sequences)  # type: ignore[arg-type]

        engine._sampler.sample = poisoned  # type: ignore[assignment, method-assign]
        got = await asyncio.gather(
            *(answer(engine, each) for each in requests), return_exceptions=True
        )
        assert engine.load().num_free_slots == 4
    failed = got.pop(2)
    del alone[2]
    assert isinstance(failed, ServeError)
    assert failed.code is Code.INTERNAL
    assert [each.token_ids for each in got if not isinstance(each, BaseException)] == alone


async def test_the_coldest_temperature_is_greedy(tiny_folder: Path) -> None:
    rng = random.Random(4)
    greedy = request(rng, "greedy", sampling=SamplingParams(max_tokens=12))
    cold = replace(greedy, id="cold", sampling=SamplingParams(max_tokens=12, temperature=1e-38))
    async with running(tiny_folder) as engine:
        assert (await answer(engine, cold)).token_ids == (await answer(engine, greedy)).token_ids
