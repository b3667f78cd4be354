"""Log-probabilities are the model's own, whatever is done to the logits afterwards."""

import asyncio
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.asked import request
from tests.engines.collect import answer, recorded_logits, running
from tests.oracle import Oracle
from vlserve.types import Chunk, Guide, GuideKind, SamplingParams, TokenLogprob

GREEDY = SamplingParams(max_tokens=16, logprobs=5)
CHANGED = SamplingParams(
    max_tokens=16,
    temperature=1.7,
    seed=3,
    top_k=9,
    repetition_penalty=1.4,
    presence_penalty=0.5,
    logit_bias={20: 30.0},
    logprobs=20,
)


def logprobs(chunks: list[Chunk]) -> list[tuple[int, TokenLogprob]]:
    """Each with the place of its token in the answer: most have one, those without text do not."""
    ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
    found, place = [], 0
    for token in (token for chunk in chunks for token in chunk.logprobs):
        place = ids.index(token.token_id, place)
        found.append((place, token))
        place += 1
    return found


async def test_greedy_logprobs_are_those_of_generate(
    tiny_folder: Path, oracle: Oracle, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(11)
    requests = [request(rng, str(i), sampling=GREEDY) for i in range(12)]
    num_tokens = 0
    furthest = 0.0
    async with running(tiny_folder) as engine:
        for each in requests:
            got = await answer(engine, each)
            with torch.inference_mode():
                told = oracle.model.generate(
                    **oracle.inputs(each.messages),
                    max_new_tokens=16,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
            for place, token in logprobs(got.chunks):
                wanted = told.logits[place][0].log_softmax(dim=-1)
                near = abs(token.logprob - float(wanted[token.token_id]))
                furthest = max(furthest, near)
                assert [top.token_id for top in token.top] == wanted.topk(5).indices.tolist()
                for top in token.top:
                    furthest = max(furthest, abs(top.logprob - float(wanted[top.token_id])))
                num_tokens += 1
    with capsys.disabled():
        print(f"logprobs of {num_tokens} tokens, furthest from generate's {furthest:.1e}")
    assert num_tokens > 100
    assert furthest < 1e-4


async def test_they_are_taken_before_anything_changes_the_logits(tiny_folder: Path) -> None:
    asked = request(random.Random(12), "r", sampling=CHANGED)
    guided = replace(
        asked, id="g", sampling=replace(CHANGED, guide=Guide(GuideKind.REGEX, "[a-z]{9}"))
    )
    async with running(tiny_folder) as engine:
        kept = recorded_logits(engine)
        for each in (asked, guided):
            got = await answer(engine, each)
            likelihoods = logprobs(got.chunks)
            assert len(likelihoods) > len(got.token_ids) // 2
            for place, token in likelihoods:
                wanted = kept[each.id][place].log_softmax(dim=-1)
                assert token.logprob == float(wanted[token.token_id])
                assert [top.logprob for top in token.top] == wanted.topk(20).values.tolist()
                assert sum(math.exp(top.logprob) for top in token.top) <= 1 + 1e-6


async def test_the_same_bits_alone_and_in_a_batch(tiny_folder: Path) -> None:
    rng = random.Random(13)
    requests = [
        request(rng, str(i), sampling=[GREEDY, CHANGED, SamplingParams(max_tokens=16)][i % 3])
        for i in range(15)
    ]
    async with running(tiny_folder, max_running=5) as engine:
        alone = [[c.logprobs for c in (await answer(engine, each)).chunks] for each in requests]
        answers = await asyncio.gather(*(answer(engine, each) for each in requests))
    assert [[chunk.logprobs for chunk in each.chunks] for each in answers] == alone


@pytest.mark.parametrize(("num_top", "wanted"), [(None, []), (0, [0]), (3, [3]), (20, [20])])
async def test_as_many_as_are_asked_for(
    tiny_folder: Path, num_top: int | None, wanted: list[int]
) -> None:
    asked = request(random.Random(14), "r", sampling=SamplingParams(max_tokens=1, logprobs=num_top))
    async with running(tiny_folder) as engine:
        got = await answer(engine, asked)
    assert [len(each.top) for each in got.chunks[0].logprobs] == wanted
