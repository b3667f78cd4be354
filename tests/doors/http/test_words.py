"""Whatever is wrong with a body is said in our words, never in those of a validation library."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticKnownError
from pydantic_core.core_schema import ErrorType

from tests.doors.http.live import user
from vlserve.doors.http.body_route import fitted
from vlserve.doors.openai.chat_schema import ChatCompletionRequest
from vlserve.doors.openai.responses_schema import ResponseRequest
from vlserve.doors.rest.routes import PictureQuestion, PictureQuestions
from vlserve.errors import Code, ServeError
from vlserve.types import MAX_PARTS
from vlserve.words import KINDS

IMAGE = {"type": "image_url", "image_url": {"url": "x", "detail": "low"}}
SCHEMA = {"type": "json_schema", "json_schema": {"schema": {}}}
# For each body one in which everything is said, or as much as can be said together.
BODIES: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (
        ChatCompletionRequest,
        {
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "a"}, IMAGE,
                    {"type": "image_url", "image_url": "x"},
                    {"type": "video_url", "video_url": {"url": "x"}},
                    {"type": "input_image", "image_url": "x", "file_id": "x", "detail": "low"},
                ]},
                {"role": "assistant", "content": "a"},
            ],
            "model": "m", "max_tokens": 1, "max_completion_tokens": 1, "temperature": 1.0,
            "top_p": 1.0, "top_k": 1, "n": 1, "seed": 1, "stop": ["a"], "logit_bias": {"1": 1},
            "stop_token_ids": [1], "logprobs": True, "top_logprobs": 1, "stream": True,
            "stream_options": {"include_usage": True}, "ignore_eos": True,
            "response_format": SCHEMA,
            "structured_outputs": {"json": {"a": 1}, "regex": "a", "choice": ["a"],
                                   "json_object": True},
            "media_bounds": {"max_images": 1}, "media_io_kwargs": {"video": {"num_frames": 1}},
            "tools": [{}], "tool_choice": "none", "modalities": ["text"],
        },
    ),
    (
        ResponseRequest,
        {
            "input": [
                {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_image", "image_url": "x", "detail": "low"},
                ]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
            ],
            "instructions": "a", "text": {"format": {"type": "json_schema", "schema": {}}},
            "include": ["message.output_text.logprobs"], "metadata": {"a": "b"},
            "max_output_tokens": 1, "stop": "a", "previous_response_id": None,
        },
    ),
    (PictureQuestion, {"image_data": "x", "prompt": "a", "media_bounds": {"max_images": 1}}),
    (PictureQuestions, {"images": [{"image_data": "x", "prompt": "a"}]}),
]  # fmt: skip
WRONG: list[Any] = [
    None, True, 0, 1, -1, 1.5, 10**400, float("nan"), "", "x", "7", "\ud800", "x" * 1000, [],
    [None], [[]], [1], ["x"], [{}], [1] * 3000, ["x"] * 3000, {}, {"x": 1}, {"type": "x"},
    {"type": 7}, {"type": "text"}, {"role": "x"}, {str(i): i for i in range(300)},
]  # fmt: skip


MANY = MAX_PARTS + 1


def spoiled(value: Any) -> Iterator[Any]:
    """The value with each wrong thing in each place of it, and with each place left out."""
    yield from WRONG
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {key: its for key, its in value.items() if key != name}
            for other in spoiled(inner):
                yield value | {name: other}
        for wrong in (1, "x", [1], {"x": 1}):
            yield value | {"no_such_name": wrong}
    if isinstance(value, list):
        for i, inner in enumerate(value):
            for other in spoiled(inner):
                yield [*value[:i], other, *value[i + 1 :]]


def library_sentences() -> re.Pattern[str]:
    """All that pydantic says, with anything in the place of its values."""
    texts = []
    for kind in get_args(ErrorType):
        try:
            template = PydanticKnownError(kind).message_template
        except (TypeError, ValueError):  # it wants values
            continue
        texts.append(re.sub(r"\\\{\w+\\\}", ".*", re.escape(template)))
    assert len(texts) > 30
    return re.compile("|".join(texts))


@pytest.mark.parametrize("kind", [kind for kind, _ in BODIES], ids=lambda kind: kind.__name__)
def test_no_word_of_a_validation_library_reaches_a_caller(kind: type[BaseModel]) -> None:
    theirs = library_sentences()
    body = next(body for each, body in BODIES if each is kind)
    kind.model_validate(body)
    seen: set[str] = set()
    kinds: set[str] = set()
    num_tried = 0
    for wrong in spoiled(body):
        num_tried += 1
        try:
            kind.model_validate(wrong)
            continue
        except ValidationError as error:
            kinds |= {each["type"] for each in error.errors(include_url=False)}
        with pytest.raises(ServeError) as caught:
            fitted(kind, wrong)
        assert caught.value.code is Code.INVALID_ARGUMENT
        json.dumps(str(caught.value)).encode()
        str(caught.value).encode()
        seen.add(caught.value.message)
    told = [
        text
        for text in sorted(seen)
        if theirs.search(text)
        or re.search(r"Input|input should|should be|validation|[Pp]ydantic|function-", text)
    ]
    assert told == []
    assert kinds <= KINDS, kinds - KINDS
    print(f"tried {num_tried}: {len(kinds)} kinds, {len(seen)} sentences, 0 of the library")


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": "a"}] * MANY},
         "messages: must hold at most"),
        (ResponseRequest, {"input": [{"role": "user", "content": "a"}] * MANY},
         "input: must hold at most"),
        (ChatCompletionRequest, {"messages": [user(*[{"type": "text", "text": "a"}] * MANY)]},
         "messages[0].content: must hold at most"),
    ],
)  # fmt: skip
def test_of_a_list_that_is_too_long_its_bound_is_said(
    kind: type[BaseModel], body: dict[str, Any], message: str
) -> None:
    with pytest.raises(ServeError) as caught:
        fitted(kind, body)
    assert str(caught.value) == f"{message} {MAX_PARTS}, not {MANY}"
