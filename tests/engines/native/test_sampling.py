"""Drawn tokens are `generate`'s for the same seed, alone and in company."""

import asyncio
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from tests.asked import request
from tests.engines.collect import answer, running
from tests.oracle import Oracle
from vlserve.engines.native.sampling.sampler import Sampler
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.text.detokenizer import Detokenizer
from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.errors import Code, ServeError
from vlserve.models.generation import GenerationRules
from vlserve.models.prompt import Prompt
from vlserve.service.service import Service
from vlserve.settings import LimitSettings
from vlserve.types import ChatRequest, Guide, GuideKind, Message, Request, SamplingParams

SAMPLINGS = [
    SamplingParams(max_tokens=20, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    for seed, (temperature, top_k, top_p) in enumerate(
        [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 5, 1.0), (1.0, 0, 0.6), (1.3, 20, 0.9), (2.0, 0, 0.95)]
        * 2
    )
] + [
    SamplingParams(max_tokens=20, temperature=1.5, seed=20, min_p=0.05),
    SamplingParams(max_tokens=20, temperature=1.2, top_k=30, top_p=0.95, seed=21, min_p=0.2),
    SamplingParams(max_tokens=20, temperature=1.0, seed=22, repetition_penalty=1.3),
    SamplingParams(max_tokens=20, repetition_penalty=1.5),
    SamplingParams(max_tokens=20, repetition_penalty=0.8),
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


async def test_several_answers_are_those_of_the_next_seeds(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = request(random.Random(3), "r", sampling=SamplingParams(max_tokens=20))
    drawn = SamplingParams(max_tokens=20, temperature=1.2, seed=40, n=5)
    messages: tuple[Message[Any], ...] = tuple(
        Message(m.role, tuple(part for part in m.content if isinstance(part, str)))
        for m in asked.messages
    )
    async with running(tiny_folder, max_running=3) as engine:
        service = Service(engine, LimitSettings())
        service.open()
        texts = [""] * 5
        async for chunk in service.chat(ChatRequest(messages, drawn)):
            texts[chunk.index] += chunk.text
        single = [
            (await answer(engine, Request("s", messages, replace(drawn, n=1, seed=40 + i)))).text
            for i in range(5)
        ]
        service.close()
    assert texts == single
    assert len(set(texts)) > 1
    with capsys.disabled():
        print("answers of one request: tried 5, equal to those of seed + i 5")


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


def sampler_of(rules: GenerationRules) -> Sampler:
    """Of four tokens."""
    return Sampler(
        rules, torch.device("cpu"), Vocabulary(Tokenizer(models.BPE()), 4, frozenset([3]))
    )


def one(sampling: SamplingParams, token_ids: list[int]) -> Sequence:
    """A sequence whose stop token is 3."""
    return Sequence(
        id="r",
        prompt=Prompt((0, 0)),
        sampling=sampling,
        max_new_tokens=9,
        stop_token_ids=frozenset([3]),
        detokenizer=Detokenizer(str),
        outbox=asyncio.Queue(),
        token_ids=token_ids,
    )


@pytest.mark.parametrize(
    ("asked", "is_greedy"),
    [
        ({}, True),
        ({"max_tokens": 3, "seed": 4, "stop": ("x",), "stop_token_ids": (2,)}, True),
        ({"top_k": 2, "top_p": 0.5, "min_p": 0.1, "temperature": 1e-9}, True),
        ({"temperature": 0.5}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"presence_penalty": 0.1}, False),
        ({"frequency_penalty": 0.1}, False),
        ({"logit_bias": {1: 1.0}}, False),
        ({"logprobs": 0}, False),
        ({"guide": Guide(GuideKind.CHOICE, choices=("a", "b"))}, False),
        ({"min_tokens": 2}, True),
        ({"min_tokens": 3}, False),
    ],
    ids=str,
)
def test_who_needs_no_sampler(asked: dict[str, Any], is_greedy: bool) -> None:
    sampler = sampler_of(GenerationRules(frozenset([3])))
    plain, other = one(SamplingParams(), [1]), one(SamplingParams(**asked), [1, 2])
    assert sampler.is_greedy((plain, other)) == sampler.is_greedy((other,)) == is_greedy
    for rules in (
        GenerationRules(frozenset(), suppressed_first=(1,)),
        GenerationRules(frozenset(), bad_words=((1, 2),)),
        GenerationRules(frozenset(), repetition_penalty=1.1),
    ):
        assert not sampler_of(rules).is_greedy((plain,))


def adjusted(sampling: SamplingParams, token_ids: list[int]) -> list[float]:
    """What the logits 1, 2, 3, 4 of four tokens become after an answer; 3 is a stop token."""
    sampler = sampler_of(GenerationRules(frozenset([3])))
    sequence = one(sampling, token_ids)
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    sampler.sample(scores, (sequence,))
    return scores[0].tolist()


def test_penalties_count_the_answer_and_not_the_prompt() -> None:
    answered = [1, 2, 2, 2]
    assert adjusted(SamplingParams(presence_penalty=0.5), answered) == [1.0, 1.5, 2.5, 4.0]
    assert adjusted(SamplingParams(frequency_penalty=0.5), answered) == [1.0, 1.5, 1.5, 4.0]
    both = SamplingParams(presence_penalty=1.0, frequency_penalty=-0.5)
    assert adjusted(both, answered) == [1.0, 1.5, 3.5, 4.0]
    assert adjusted(both, []) == [1.0, 2.0, 3.0, 4.0]


def test_a_repetition_penalty_counts_prompt_and_answer() -> None:
    assert adjusted(SamplingParams(repetition_penalty=2.0), [1]) == [0.5, 1.0, 3.0, 4.0]


def test_biases_are_added() -> None:
    biased = SamplingParams(logit_bias={0: 100.0, 2: -1.5})
    assert adjusted(biased, []) == [101.0, 2.0, 1.5, 4.0]


def test_no_stop_token_before_min_tokens() -> None:
    sampling = SamplingParams(min_tokens=2)
    assert adjusted(sampling, [1]) == [1.0, 2.0, 3.0, -math.inf]
    assert adjusted(sampling, [1, 1]) == [1.0, 2.0, 3.0, 4.0]


async def test_a_stop_token_of_the_request_ends_the_answer(tiny_folder: Path) -> None:
    plain = request(random.Random(6), "r", sampling=SamplingParams(max_tokens=12))
    async with running(tiny_folder) as engine:
        whole = (await answer(engine, plain)).token_ids
        stop = whole[4]
        first = whole.index(stop)
        sampling = SamplingParams(max_tokens=12, stop_token_ids=(stop,))
        cut = await answer(engine, replace(plain, id="cut", sampling=sampling))
        later = replace(sampling, min_tokens=first + 2)
        long = await answer(engine, replace(plain, id="long", sampling=later))
    assert cut.token_ids == whole[: first + 1]
    assert cut.finish_reason == "stop"
    assert long.token_ids[:first] == whole[:first]
    assert len(long.token_ids) >= first + 2


@pytest.mark.parametrize("wrong", [{"logit_bias": {99_999: 1.0}}, {"stop_token_ids": (99_999,)}])
async def test_tokens_that_the_model_does_not_have_are_refused(
    tiny_folder: Path, wrong: dict[str, Any]
) -> None:
    asked = request(random.Random(6), "r", sampling=SamplingParams(**wrong))
    async with running(tiny_folder) as engine:
        with pytest.raises(ServeError, match="99999 is not one of") as refused:
            await answer(engine, asked)
    assert refused.value.field == next(iter(wrong))
