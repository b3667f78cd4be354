"""Responses through OpenAI's own client."""

import hashlib
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.doors.grpc.live import png
from tests.doors.http.live import data_url, live
from tests.scripted import MODEL
from vlserve.errors import FAILED
from vlserve.types import GuideKind, Role

pytestmark = pytest.mark.asyncio(loop_scope="session")
PATH = "/v1/responses"
SHA = hashlib.sha256(b"8x6:" + bytes([255, 0, 0]) * 48).hexdigest()
PICTURE = {"type": "input_image", "image_url": data_url(), "detail": "auto"}


def text(said: str) -> Any:
    return {"type": "input_text", "text": said}


def pictured(**said: Any) -> dict[str, Any]:
    """A request for one picture."""
    part = {"type": "input_image", "detail": "auto"} | said
    return {"input": [{"role": "user", "content": [part, text("a")]}]}


async def test_a_text() -> None:
    async with live() as house, house.client() as client:
        answer = await client.responses.create(
            model=MODEL, input="hello you", instructions="be brief", max_output_tokens=9,
            temperature=0.5, top_p=0.9, metadata={"a": "b"}, store=False,
        )  # fmt: skip
        (seen,) = house.engine.seen
    assert answer.output_text == "hello you "
    assert (answer.status, answer.error, answer.incomplete_details) == ("completed", None, None)
    assert (answer.temperature, answer.top_p, answer.max_output_tokens) == (0.5, 0.9, 9)
    assert (answer.metadata, answer.instructions) == ({"a": "b"}, "be brief")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 2)
    assert answer.usage.total_tokens == 14
    assert [message.role for message in seen.messages] == [Role.SYSTEM, Role.USER]
    assert (seen.sampling.max_tokens, seen.sampling.temperature) == (9, 0.5)


async def test_what_vllm_adds() -> None:
    """As guidellm asks for an answer of exactly so many tokens."""
    async with live() as house:
        exactly = {"max_output_tokens": 9, "ignore_eos": True, "stop": None}
        for said in (exactly, {"stop": "x"}, {"stop": ["x", "y"], "ignore_eos": False}):
            assert (await house.post(PATH, {"input": "hello"} | said)).status == 200
        seen = [request.sampling for request in house.engine.seen]
    assert [(s.min_tokens, s.max_tokens) for s in seen] == [(9, 9), (0, 4096), (0, 4096)]
    assert [s.stop for s in seen] == [(), ("x",), ("x", "y")]


async def test_turns_with_a_picture_and_an_answer_that_comes_back() -> None:
    async with live() as house, house.client() as client:
        turns: Any = [{"role": "user", "content": [PICTURE, text("what is this")]}]
        first = await client.responses.create(model=MODEL, input=turns)
        again: Any = [
            {"role": "system", "content": "be brief"},
            *turns,
            *first.output,
            {"type": "message", "role": "user", "content": "and now"},
        ]
        await client.responses.create(model=MODEL, input=again, instructions="be kind")
        seen = house.engine.seen[1]
    assert first.output_text == f"{SHA} what is this "
    assert [message.role for message in seen.messages] == ["system", "user", "assistant", "user"]
    assert "".join(map(str, seen.messages[0].content)) == "be kind\n\nbe brief"
    assert seen.messages[2].content == (first.output_text,)


async def test_an_upload_is_a_picture_by_its_file_id() -> None:
    async with live() as house, house.client() as client:
        file = await client.files.create(file=("a.png", png()), purpose="vision")
        for said in ({"file_id": file.id}, {"file_id": file.id, "image_url": None}):
            part: Any = {"type": "input_image", "detail": "auto"} | said
            turns: Any = [{"role": "user", "content": [part, text("what is this")]}]
            answer = await client.responses.create(
                model=MODEL, input=turns, extra_body={"media_bounds": {"max_image_pixels": 48}}
            )
            assert answer.output_text == f"{SHA} what is this "
        chat = await client.chat.completions.create(model=MODEL, messages=turns_of_chat(file.id))
        assert chat.choices[0].message.content == f"{SHA} what is this "
        await client.files.delete(file.id)
        with pytest.raises(openai.BadRequestError) as gone:
            await client.responses.create(model=MODEL, input=turns)
    assert gone.value.param == "input[0].content[0].file_id"
    assert "it may have expired" in gone.value.message


def turns_of_chat(file_id: str) -> Any:
    parts = [{"type": "input_image", "file_id": file_id}, {"type": "text", "text": "what is this"}]
    return [{"role": "user", "content": parts}]


async def test_a_stream_has_the_events_that_the_client_builds_on() -> None:
    async with live() as house, house.client() as client:
        async with client.responses.stream(model=MODEL, input="hello you") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        plain = await client.responses.create(model=MODEL, input="hello you", stream=True)
        numbers = [event.sequence_number async for event in plain]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert numbers == list(range(10))
    assert final.output_text == "hello you "
    assert final.usage is not None
    assert final.usage.output_tokens == 2


async def test_logprobs_on_request() -> None:
    async with live() as house, house.client() as client:
        answer = await client.responses.create(
            model=MODEL, input="hello", include=["message.output_text.logprobs"], top_logprobs=1
        )
        assert house.engine.seen[0].sampling.logprobs == 1
    part: Any = answer.output[0]
    (token,) = part.content[0].logprobs
    assert (token.token, token.logprob, len(token.top_logprobs)) == ("hello", -0.5, 1)


class Shape(BaseModel):
    colour: str


async def test_a_form_arrives_as_a_guide() -> None:
    async with live() as house, house.client() as client:
        with pytest.raises(ValueError, match="Invalid JSON"):  # the engine here only repeats
            await client.responses.parse(model=MODEL, input="hello", text_format=Shape)
        guide = house.engine.seen[0].sampling.guide
        await client.responses.create(
            model=MODEL, input="hello", text={"format": {"type": "json_object"}}
        )
        assert house.engine.seen[1].sampling.guide is not None
    assert guide is not None
    assert guide.kind is GuideKind.JSON_SCHEMA
    assert json.loads(guide.text)["required"] == ["colour"]


async def test_a_failure_in_mid_stream(caplog: pytest.LogCaptureFixture) -> None:
    async with live() as house, house.client() as client:
        stream = await client.responses.create(model=MODEL, input="a break", stream=True)
        events = [event async for event in stream]
    last: Any = events[-1]
    assert last.type == "response.failed"
    assert last.response.error.message == FAILED
    assert "Traceback" in caplog.text


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("input", {"input": ""}),
    ("input", {"input": []}),
    ("input", {"input": [], "instructions": "c"}),
    ("input", {"input": 7}),
    ("input[0].role", {"input": [{"role": "tool", "content": "a"}]}),
    ("input[0].type", {"input": [{"type": "function_call", "role": "user", "content": "a"}]}),
    ("input[0].content[0].type", {"input": [{"role": "user", "content": [{"type": "x"}]}]}),
    ("input[0].content[0].file_id", pictured(file_id="f")),
    ("input[0].content[0]", pictured(file_id="")),
    ("input[0].content[0].file_id", pictured(file_id=data_url())),
    ("input[0].content[0].file_id", pictured(file_id="http://localhost/a.png")),
    ("input[0].content[0].file_id", pictured(file_id=f"sha256:{'0' * 64}")),
    ("input[0].content[0]", pictured()),
    ("input[0].content[0]", pictured(file_id=None, image_url=None)),
    ("input[0].content[0]", pictured(file_id=f"sha256:{'0' * 64}", image_url=data_url())),
    ("input[0].content[0]", pictured(image_url="")),
    ("media_bounds.max_images", {"media_bounds": {"max_images": 0}}),
    ("media_bounds.max_images", {"media_bounds": {"max_images": 33}}),
    ("media_bounds.max_images", {"media_bounds": {"max_images": 1.5}}),
    ("media_bounds.max_pixels", {"media_bounds": {"max_pixels": 1}}),
    ("input[0].content[0].image_url",
     pictured(image_url=data_url()) | {"media_bounds": {"max_image_pixels": 47}}),
    (
        "input[0].content[0].image_url",
        {"input": [{"role": "user", "content": [PICTURE | {"image_url": "data:;base64,AAAA"}]}]},
    ),
    ("input[1].role", {"input": [{"role": "user", "content": "a"}] * 1 + [
        {"role": "assistant", "content": "b"}], "instructions": "c"}),
    ("max_output_tokens", {"max_output_tokens": 0}),
    ("temperature", {"temperature": 3}),
    ("top_logprobs", {"top_logprobs": 21}),
    ("text.format.type", {"text": {"format": {"type": "grammar"}}}),
    ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "a"}}}),
    ("text.verbosity", {"text": {"verbosity": "low"}}),
    ("previous_response_id", {"previous_response_id": "resp_1"}),
    ("conversation", {"conversation": "c"}),
    ("background", {"background": True}),
    ("tools", {"tools": [{"type": "web_search"}]}),
    ("truncation", {"truncation": "auto"}),
    ("reasoning", {"reasoning": {"effort": "low"}}),
    ("tools", {"tools": [{"type": "function", "name": "f"}], "tool_choice": "auto"}),
    ("include[0]", {"include": ["file_search_call.results"]}),
]  # fmt: skip


async def test_refusals_name_the_callers_field() -> None:
    async with live() as house, house.client() as client:
        for param, said in REFUSED:
            answer = await house.post(PATH, {"input": "hello"} | said)
            assert (answer.status, answer.error["param"]) == (400, param), (said, answer)
        assert not house.engine.seen
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="other", input="hello")
        with pytest.raises(openai.BadRequestError) as bad:
            await client.responses.create(model=MODEL, input="a", previous_response_id="resp_1")
        assert bad.value.param == "previous_response_id"
    print(f"tried {len(REFUSED)}, held {len(REFUSED)}")


async def test_a_form_is_given_back_as_it_came() -> None:
    form = {
        "type": "json_schema", "name": "shape", "strict": True, "description": "d",
        "schema": {"type": "object"},
    }  # fmt: skip
    async with live() as house:
        answer = await house.post("/v1/responses", {"input": "a", "text": {"format": form}})
        assert answer.json["text"]["format"] == form
