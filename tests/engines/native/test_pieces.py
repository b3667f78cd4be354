"""The bytes of the tokens of an answer are its text, whatever ends it."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.asked import request
from tests.engines.collect import answer, running
from tests.engines.native.test_detokenizer import DECODE, IDS, STOPS, TOKENIZER
from tests.tiny_model import tiny_tokenizer
from vlserve.engines.native.text.detokenizer import Detokenizer
from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.types import Guide, GuideKind, SamplingParams, TokenLogprob

VOCABULARY = Vocabulary(tiny_tokenizer().backend_tokenizer, len(TOKENIZER), frozenset([2]))
TEXTS = st.text(st.sampled_from("aab <é東京😀👩‍👧 \n"), max_size=30)


def streamed(ids: Sequence[int], stop: Sequence[str]) -> tuple[str, list[TokenLogprob]]:
    """The text, and the tokens as they come with it: never ahead of it."""
    detokenizer = Detokenizer(DECODE, stop)
    text = ""
    tokens: list[TokenLogprob] = []
    for token_id in ids:
        likely = TokenLogprob(token_id, -1.0, VOCABULARY.token_bytes(token_id))
        text += detokenizer.push(token_id, [likely])
        tokens += detokenizer.logprobs()
        said = b"".join(token.data for token in tokens)
        assert text.encode().startswith(said)
        if detokenizer.is_stopped:
            break
    text += detokenizer.finish()
    tokens += detokenizer.logprobs(is_last=True)
    return text, tokens


@settings(max_examples=500, deadline=None)
@given(IDS, STOPS)
def test_any_tokens_and_stop_strings(ids: list[int], stop: list[str]) -> None:
    text, tokens = streamed(ids, stop)
    assert b"".join(token.data for token in tokens) == text.encode()
    assert all(token.data for token in tokens)
    # Each is one of those that were drawn, in their order.
    left = iter(ids)
    assert all(token.token_id in left for token in tokens)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_a_text_without_an_end_is_its_tokens_own_bytes(text: str) -> None:
    ids = TOKENIZER.encode("a" + text, add_special_tokens=False)
    _, tokens = streamed(ids, [])
    assert [token.data for token in tokens] == [VOCABULARY.token_bytes(i) for i in ids]


def test_of_a_stop_string_and_an_end_nothing_is_left() -> None:
    (end,) = TOKENIZER.encode("</s>", add_special_tokens=False)
    ids = TOKENIZER.encode(" red circle STOP blue", add_special_tokens=False)
    for stop, wanted in (
        ([], "red circle STOP blue"),
        ([" STOP"], "red circle"),
        (["rcl"], "red ci"),
    ):
        text, tokens = streamed([*ids, end], stop)
        assert (text, b"".join(token.data for token in tokens)) == (wanted, wanted.encode())


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(max_tokens=40),
        SamplingParams(max_tokens=40, stop=("e", "東")),
        SamplingParams(max_tokens=40, stop_token_ids=tuple(range(2, 60))),
        SamplingParams(max_tokens=40, guide=Guide(GuideKind.JSON_OBJECT)),
        SamplingParams(max_tokens=3),
    ],
    ids=["length", "stop strings", "stop tokens", "guide", "short"],
)
async def test_of_an_engines_answers(tiny_folder: Path, sampling: SamplingParams) -> None:
    async with running(tiny_folder) as engine:
        for i in range(12):
            drawn = replace(sampling, temperature=1.8, seed=i, logprobs=2)
            got = await answer(engine, request(random.Random(i), str(i), sampling=drawn))
            tokens = [token for chunk in got.chunks for token in chunk.logprobs]
            assert b"".join(token.data for token in tokens) == got.text.encode()
            assert all(len(token.top) == 2 for token in tokens)


def test_a_special_token_has_no_bytes_of_a_character_cut_short_before_it() -> None:
    [half, *_] = TOKENIZER.encode("a\N{EURO SIGN}", add_special_tokens=False)[1:]
    special = TOKENIZER.eos_token_id
    assert DECODE([special]) == ""
    text, tokens = streamed([half, special], [])
    assert text == "\N{REPLACEMENT CHARACTER}"
    assert [token.token_id for token in tokens] == [half]
