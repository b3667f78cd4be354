"""The table of sampling parameters: every door has each of them, and holds it alike."""

from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel

from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.kserve.sampling import Given, sampling
from vlserve.doors.openai.chat_schema import ChatCompletionRequest
from vlserve.doors.openai.responses_schema import ResponseRequest
from vlserve.errors import Code, ServeError
from vlserve.settings import LimitSettings
from vlserve.types import (
    MAX_SEED,
    MAX_TOKEN_ID,
    MEDIA_BOUNDS,
    SAMPLING,
    MediaBounds,
    SamplingParams,
)

# What a door calls otherwise, or does not have.
CHAT = {"logprobs": "top_logprobs"}
RESPONSES = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs", "n": None}
NO_KSERVE = {"logprobs"}


def test_every_field_has_a_rule() -> None:
    assert set(SAMPLING) | {"guide"} == {field.name for field in fields(SamplingParams)}
    assert set(MEDIA_BOUNDS) == {field.name for field in fields(MediaBounds)}


def test_every_door_has_every_parameter() -> None:
    guides = {"json_object", "json_schema", "regex", "choice"}
    assert {field.name for field in pb.Sampling.DESCRIPTOR.fields} - guides == set(SAMPLING)
    chat = {CHAT.get(name, name) for name in SAMPLING}
    assert chat <= set(ChatCompletionRequest.model_fields)
    responses = {RESPONSES.get(name, name) for name in SAMPLING} - {None}
    assert responses <= set(ResponseRequest.model_fields)
    bounds = {field.name for field in pb.MediaBounds.DESCRIPTOR.fields}
    assert bounds == set(MEDIA_BOUNDS)
    for name in set(SAMPLING) - NO_KSERVE:
        given = {name: Given(None, name)}
        assert sampling(given, LimitSettings()) == SamplingParams()


@pytest.mark.parametrize(
    ("kind", "theirs"), [(ChatCompletionRequest, CHAT), (ResponseRequest, RESPONSES)]
)
def test_the_document_tells_the_bounds_that_are_held(
    kind: type[BaseModel], theirs: dict[str, str | None]
) -> None:
    properties = kind.model_json_schema()["properties"]
    num_bounds = 0
    for name in SAMPLING:
        told = properties.get(theirs.get(name, name), {})
        beside = {"max_tokens": 10**9} if name == "min_tokens" else {}
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound in told:
                SamplingParams(**beside | {name: told[bound]})
                with pytest.raises(ServeError):
                    SamplingParams(**beside | {name: told[bound] + beyond})
                num_bounds += 1
    assert num_bounds > 12


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_tokens", 0, "must be at least 1, not 0"),
        ("temperature", 2.5, "must be between 0 and 2, not 2.5"),
        ("temperature", float("nan"), "must be between 0 and 2, not nan"),
        ("top_p", 0.0, "must be above 0 and at most 1, not 0"),
        ("top_k", -2, f"must be between 0 and {MAX_TOKEN_ID}, not -2"),
        ("seed", MAX_SEED + 1, f"must be between -{MAX_SEED} and {MAX_SEED}, not {MAX_SEED + 1}"),
        ("stop", ("x",) * 17, "must hold at most 16 texts, not 17"),
        ("stop", ("", "x"), "each must have 1 to 256 characters; one has 0"),
        ("stop", ("a", "\ud83d"), "must be Unicode text, without half of a surrogate pair"),
        ("logit_bias", {7: 101}, "each must be between -100 and 100; that of 7 is 101"),
        ("logit_bias", {-1: 1}, f"each token id must be between 0 and {MAX_TOKEN_ID}, not -1"),
        ("stop_token_ids", (1,) * 65, "must hold at most 64 tokens, not 65"),
        ("min_tokens", 201, "must be at most max_tokens, 200, not 201"),
        ("n", 10**40, f"must be between 1 and 16, not 1{'0' * 31}..."),
    ],
)
def test_what_is_refused_is_said_with_its_value_and_what_is_allowed(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises(ServeError) as caught:
        SamplingParams(**{name: value})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, name)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("top_k", -1, 0),
        ("seed", -1, None),
        ("seed", -2, MAX_SEED - 1),
        ("seed", -MAX_SEED, 1),
        ("seed", MAX_SEED, MAX_SEED),
        ("stop", ["a"], ("a",)),
    ],
)
def test_what_clients_write_is_kept_in_one_form(name: str, value: Any, kept: Any) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == kept
