"""Chat completions through OpenAI's own client."""

import asyncio
import hashlib
import json
import threading
from typing import Any

import openai
import pytest

from tests.doors.grpc.live import png
from tests.doors.http.live import data_url, live, picture_part, read_answer, text_part, user
from tests.doors.http.live import request_head as head
from tests.scripted import MODEL, ScriptedEngine
from tests.waiting import until
from vlserve.errors import FAILED
from vlserve.types import Guide, GuideKind

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT = "/v1/chat/completions"
SHA = hashlib.sha256(b"8x6:" + bytes([255, 0, 0]) * 48).hexdigest()
HELLO = [user("hello you")]


async def test_a_picture_and_a_question() -> None:
    async with live() as house, house.client() as client:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[user(picture_part(), text_part("what is this"))]
        )
        sampling = house.engine.seen[0].sampling
    (choice,) = answer.choices
    assert choice.message.content == f"{SHA} what is this "
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (14, 4, 18)
    details = usage.prompt_tokens_details
    assert (details.image_tokens, details.text_tokens, details.cached_tokens) == (10, 4, 0)
    assert (sampling.max_tokens, sampling.temperature) == (4096, 0)


@pytest.mark.parametrize(
    "part",
    [
        picture_part(),
        {"type": "image_url", "image_url": data_url()},
        {"type": "input_image", "image_url": data_url(), "detail": "low"},
        *(
            {"type": "image_url", "image_url": {"url": data_url(), "detail": detail}}
            for detail in ("auto", "low", "high", "original")
        ),
    ],
)
async def test_every_way_to_write_a_picture(part: Any) -> None:
    async with live() as house, house.client() as client:
        answer = await client.chat.completions.create(model=MODEL, messages=[user(part)])
        (picture,) = house.engine.seen[0].messages[0].pictures()
    assert answer.choices[0].message.content == f"{SHA} "
    assert picture.detail == ("low" if '"low"' in json.dumps(part) else "auto")


async def test_turns_and_pictures_keep_their_order() -> None:
    messages: Any = [
        {"role": "developer", "content": "be brief"},
        user(picture_part(), text_part("first")),
        {"role": "assistant", "content": [text_part("an answer")]},
        user(text_part("a"), picture_part(png((0, 0, 9))), text_part("b"), picture_part()),
    ]
    async with live() as house, house.client() as client:
        answer = await client.chat.completions.create(model=MODEL, messages=messages)
        again = [*messages, answer.choices[0].message, user("go on")]
        await client.chat.completions.create(model=MODEL, messages=again)
        seen, longer = house.engine.seen
    assert [message.role for message in seen.messages] == ["system", "user", "assistant", "user"]
    kinds = [[type(part).__name__ for part in message.content] for message in seen.messages]
    assert kinds == [["str"], ["Image", "str"], ["str"], ["str", "Image", "str", "Image"]]
    assert longer.messages[4].content == (answer.choices[0].message.content,)


async def test_parameters_arrive() -> None:
    async with live() as house, house.client() as client:
        await client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=9, max_completion_tokens=7,
            temperature=0.7, top_p=0.5, seed=3, stop=["x", "y"], presence_penalty=1,
            frequency_penalty=-1, logit_bias={"7": -2}, logprobs=True, top_logprobs=2,
            user="u", metadata={"a": "b"}, store=True, tools=[], tool_choice="none",
            extra_body={
                "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.5, "min_tokens": 2,
                "stop_token_ids": [4, 5],
            },
        )  # fmt: skip
        await client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=9, stop="x",
            extra_body={"ignore_eos": True, "top_k": -1},
        )  # fmt: skip
        all_said, few = (request.sampling for request in house.engine.seen)
    assert (all_said.max_tokens, all_said.temperature, all_said.top_p) == (7, 0.7, 0.5)
    assert (all_said.seed, all_said.stop, all_said.logprobs) == (3, ("x", "y"), 2)
    assert (all_said.presence_penalty, all_said.frequency_penalty) == (1, -1)
    assert (all_said.logit_bias, all_said.top_k, all_said.min_p) == ({7: -2}, 4, 0.1)
    assert (all_said.repetition_penalty, all_said.min_tokens) == (1.5, 2)
    assert all_said.stop_token_ids == (4, 5)
    assert (few.max_tokens, few.min_tokens, few.stop, few.top_k) == (9, 9, ("x",), 0)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
GUIDES: list[tuple[dict[str, Any], Guide | None]] = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, Guide(GuideKind.JSON_OBJECT)),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
            }
        },
        Guide(GuideKind.JSON_SCHEMA, json.dumps(SCHEMA)),
    ),
    ({"structured_outputs": {"json": SCHEMA}}, Guide(GuideKind.JSON_SCHEMA, json.dumps(SCHEMA))),
    ({"structured_outputs": {"json": "{}"}}, Guide(GuideKind.JSON_SCHEMA, "{}")),
    ({"structured_outputs": {"json": {}}}, Guide(GuideKind.JSON_SCHEMA, "{}")),
    ({"structured_outputs": {"regex": "a+"}}, Guide(GuideKind.REGEX, "a+")),
    (
        {"structured_outputs": {"choice": ["a", "b"]}},
        Guide(GuideKind.CHOICE, choices=("a", "b")),
    ),
    ({"structured_outputs": {"json_object": True}}, Guide(GuideKind.JSON_OBJECT)),
]


async def test_guides_arrive() -> None:
    async with live() as house, house.client() as client:
        for said, guide in GUIDES:
            await client.chat.completions.create(model=MODEL, messages=HELLO, extra_body=said)
            assert house.engine.seen[-1].sampling.guide == guide


async def test_a_stream_is_role_pieces_reason_usage_done() -> None:
    body = {
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with live() as house:
        answer = await house.post(CHAT, body)
        plain = await house.post(CHAT, {"messages": HELLO, "stream": True})
        whole = (await house.post(CHAT, {"messages": HELLO})).json
    assert answer.headers["content-type"].startswith("text/event-stream")
    *lines, done = answer.body.decode().strip().split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert deltas == [
        {"role": "assistant", "content": ""}, {"content": "hello "}, {"content": "you "}, {},
    ]  # fmt: skip
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons == [None, None, None, "stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 4
    assert "usage" not in plain.body.decode()


async def test_several_answers_with_logprobs_streamed_and_whole() -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": HELLO, "n": 3, "logprobs": True}
    async with live() as house, house.client() as client:
        whole = await client.chat.completions.create(**asked, top_logprobs=1, seed=5)
        stream = await client.chat.completions.create(
            **asked, top_logprobs=1, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        seeds = {request.sampling.seed for request in house.engine.seen[:3]}
    assert seeds == {5, 6, 7}
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert {choice.message.content for choice in whole.choices} == {"hello you "}
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (12, 6)
    logprobs = whole.choices[2].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    first = logprobs.content[0]
    assert (first.token, first.bytes, first.logprob) == ("hello", list(b"hello"), -0.5)
    assert [top.bytes for top in first.top_logprobs] == [[0xC3]]
    texts = {0: "", 1: "", 2: ""}
    tokens = {0: 0, 1: 0, 2: 0}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.logprobs is not None:
                tokens[choice.index] += len(choice.logprobs.content or [])
    assert set(texts.values()) == {"hello you "}
    assert set(tokens.values()) == {2}
    assert chunks[-1].usage == whole.usage


async def test_a_failure_in_mid_stream_is_told_and_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with live() as house, house.client() as client:
        raw = await house.post(CHAT, {"messages": [user("a break")], "stream": True})
        stream = await client.chat.completions.create(
            model=MODEL, messages=[user("a break")], stream=True
        )
        with pytest.raises(openai.APIError) as failed:
            async for _ in stream:
                pass
        assert house.service.num_inside == 0
    *_, error, done = raw.body.decode().strip().split("\n\n")
    assert done == "data: [DONE]"
    assert json.loads(error.removeprefix("data: "))["error"]["type"] == "server_error"
    assert failed.value.message == FAILED
    assert "Traceback" in caplog.text


async def test_leaving_a_stream_frees_the_slot() -> None:
    engine = ScriptedEngine(num_slots=1, step_s=0.002)
    async with live(engine) as house, house.client() as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[user("hold")], stream=True
        )
        num_read = 0
        async for _ in stream:
            num_read += 1
            if num_read == 5:
                break
        assert engine.num_running == 1
        await stream.close()
        await until(lambda: engine.num_running == 0)
        assert house.service.num_inside == 0


async def test_errors_have_the_sdks_types() -> None:
    hello: dict[str, Any] = {"model": MODEL, "messages": HELLO}
    async with live(ScriptedEngine(num_slots=1), max_waiting=0) as house, house.client() as client:
        create = client.chat.completions.create
        with pytest.raises(openai.BadRequestError) as bad:
            await create(**hello, temperature=3)
        assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
        assert bad.value.code == "invalid_argument"
        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="other", messages=HELLO)
        assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")
        holding = asyncio.create_task(create(model=MODEL, messages=[user("hold")]))
        await until(lambda: house.engine.num_running == 1)
        for is_stream in (False, True):
            with pytest.raises(openai.RateLimitError) as full:
                await create(**hello, stream=is_stream)
            seconds = int(full.value.response.headers["retry-after"])
            assert seconds >= 1
            ms = int(full.value.response.headers["retry-after-ms"])
            assert (seconds - 1) * 1000 < ms <= seconds * 1000
        holding.cancel()
        await asyncio.wait([holding])
        await until(lambda: house.service.num_inside == 0)
        assert (await create(**hello)).choices


async def test_the_hall_ends_what_takes_too_long() -> None:
    async with live(timeout_s=0.2) as house, house.client() as client:
        with pytest.raises(openai.InternalServerError) as late:
            await client.chat.completions.create(model=MODEL, messages=[user("hold")])
        assert (late.value.status_code, late.value.type) == (504, "timeout_error")


async def test_the_client_comes_again_when_it_was_told_to() -> None:
    engine = ScriptedEngine(num_slots=1, step_s=0.01)
    async with live(engine, max_waiting=0) as house, house.client(max_retries=5) as client:
        asking = [
            client.chat.completions.create(model=MODEL, messages=[user("a b c d e f")])
            for _ in range(3)
        ]
        answers = await asyncio.gather(*asking)
    assert {answer.choices[0].message.content for answer in answers} == {"a b c d e f "}


async def test_the_sync_client_as_well() -> None:
    async with live() as house:
        url, told = f"{house.url}/v1", []

        def ask() -> None:
            with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
                told.append([model.id for model in client.models.list()])
                told.append([client.models.retrieve(MODEL).id])
                stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
                told.append([chunk.choices[0].delta.content or "" for chunk in stream])

        thread = threading.Thread(target=ask)
        thread.start()
        await asyncio.to_thread(thread.join)
    assert told == [[MODEL], [MODEL], ["", "hello ", "you ", ""]]


def frames(number: int | None) -> dict[str, Any]:
    """As vLLM's clients ask for them."""
    return {"media_io_kwargs": {"video": {"num_frames": number}}}


NO_CONTENT: list[dict[str, Any]] = [{}, {"content": None}, {"content": ""}, {"content": []}]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("model", {"model": 7}),
    ("messages[0].role", {"messages": [{"role": "tool", "content": "a"}]}),
    ("messages[0].role", {"messages": [{"content": "a"}]}),
    *(("messages[0]", {"messages": [{"role": "user"} | said]}) for said in NO_CONTENT),
    ("messages[0].extra", {"messages": [{"role": "user", "content": "a", "extra": 1}]}),
    ("messages[0].tool_calls", {"messages": [user("a") | {"tool_calls": [{}]}]}),
    ("messages[0]", {"messages": [user("")]}),
    ("messages[0].content[0].video_url", {"messages": [user({"type": "video_url"})]}),
    ("messages[0].content[0].type", {"messages": [user({"text": "a"})]}),
    ("messages[0].content[0].text", {"messages": [user({"type": "text"})]}),
    ("messages[0].content[0].text", {"messages": [user(text_part("a") | {"text": 1})]}),
    ("messages[0].content[0].more", {"messages": [user(text_part("a") | {"more": 1})]}),
    (
        "messages[0].content[1].image_url",
        {"messages": [user(text_part("a"), {"type": "image_url"})]},
    ),
    (
        "messages[0].content[0].image_url.url",
        {"messages": [user({"type": "image_url", "image_url": {}})]},
    ),
    (
        "messages[0].content[0].image_url.url",
        {"messages": [user({"type": "image_url", "image_url": {"url": ""}})]},
    ),
    (
        "messages[0].content[0].image_url.detail",
        {"messages": [user({"type": "image_url", "image_url": {"url": "x", "detail": "ultra"}})]},
    ),
    ("messages[0].content[0].image_url.url", {"messages": [user(picture_part(b"no picture"))]}),
    (
        "messages[0].content[0].image_url",
        {"messages": [user({"type": "image_url", "image_url": "https://example.com/a.png"})]},
    ),
    ("messages[0].content[2].image_url.url", {"messages": [user(*[picture_part()] * 3)]}),
    ("messages[1].role", {"messages": [user("a"), {"role": "assistant", "content": "b"}]}),
    ("max_completion_tokens", {"max_completion_tokens": 0, "max_tokens": 5}),
    ("max_tokens", {"max_tokens": -1}),
    ("max_tokens", {"max_tokens": "5"}),
    ("max_tokens", {"max_tokens": 5.5}),
    ("n", {"n": True}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    ("logit_bias", {"logit_bias": {"a": 1}}),
    ("logit_bias", {"logit_bias": {"99999999999": 1}}),
    ("logit_bias", {"logit_bias": {"1": 101}}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("stream_options.more", {"stream": True, "stream_options": {"more": True}}),
    ("response_format.type", {"response_format": {"type": "grammar"}}),
    ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
    (
        "response_format.json_schema.schema",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
    ),
    ("structured_outputs", {"structured_outputs": {"regex": "a", "choice": ["b"]}}),
    ("stop[1]", {"stop": ["a", 5]}),
    ("stop[0]", {"stop": [None]}),
    ("structured_outputs.regex", {"structured_outputs": {"regex": "refused"}}),
    ("structured_outputs.grammar", {"structured_outputs": {"grammar": "a"}}),
    (
        "structured_outputs",
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
    ),
    ("stop_token_ids[1]", {"stop_token_ids": [1, -1]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("modalities[1]", {"modalities": ["text", "audio"]}),
    ("reasoning_effort", {"reasoning_effort": "low"}),
    ("verbosity", {"verbosity": "low"}),
    ("audio", {"audio": {"voice": "alloy", "format": "wav"}}),
    ("prediction", {"prediction": {"type": "content", "content": "a"}}),
    ("functions", {"functions": [{"name": "f"}]}),
    ("web_search_options", {"web_search_options": {}}),
    ("best_of", {"best_of": 2}),
    ("temprature", {"temprature": 1}),
    (
        "messages[0].content[0].file_id",
        {"messages": [user({"type": "input_image", "file_id": "f"})]},
    ),
    ("messages[0].content[0]", {"messages": [user({"type": "input_image"})]}),
    ("media_bounds", {"media_bounds": [1]}),
    ("media_bounds.max_images", {"media_bounds": {"max_images": 0}}),
    ("media_bounds.max_images", {"media_bounds": {"max_images": 3}}),
    ("media_bounds.max_images", {"media_bounds": {"max_images": 10**400}}),
    ("media_bounds.max_images", {"media_bounds": {"max_images": "1"}}),
    ("media_bounds.max_images", {"media_bounds": {"max_images": True}}),
    ("media_bounds.max_videos", {"media_bounds": {"max_videos": 1}}),
    ("media_io_kwargs.video.num_frames", frames(0)),
    ("media_io_kwargs.video.num_frames", frames(-1)),
    ("media_io_kwargs.video.num_frames", frames(33)),
    ("media_io_kwargs.video.num_frames", frames(2) | {"media_bounds": {"max_video_frames": 2}}),
    ("media_bounds.max_video_frames", frames(None) | {"media_bounds": {"max_video_frames": 33}}),
    ("media_io_kwargs.video.fps", {"media_io_kwargs": {"video": {"fps": 1}}}),
    ("media_io_kwargs.image", {"media_io_kwargs": {"image": {"width": 1}}}),
    ("mm_processor_kwargs", {"mm_processor_kwargs": {"fps": 1}}),
]


@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
async def test_refusals_name_the_callers_field(is_stream: bool) -> None:
    async with live(max_images=2) as house:
        for param, said in REFUSED:
            more = {"stream": True} if is_stream and "stream_options" not in param else {}
            answer = await house.post(CHAT, {"messages": HELLO} | more | said)
            assert answer.status == 400, (said, answer)
            assert answer.error["param"] == param, (said, answer.error)
            assert answer.error["message"].startswith(f"{param}: ")
        assert not house.engine.seen
        assert house.service.num_inside == 0
    print(f"tried {len(REFUSED)}, held {len(REFUSED)}")


async def test_an_answer_that_nobody_reads_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlserve.doors.http.server._READ_GRACE_S", 0.2)
    async with live(ScriptedEngine(), timeout_s=1.0) as house:
        reader, writer = await house.connect()
        body = json.dumps({"messages": [user("flood")], "stream": True}).encode()
        writer.write(head(CHAT, len(body)) + body)
        await until(lambda: house.engine.num_steps > 3)
        await asyncio.sleep(0.4)
        num_steps = house.engine.num_steps
        await asyncio.sleep(0.2)
        assert house.engine.num_steps == num_steps  # nothing is made that nobody takes
        await until(lambda: house.service.num_inside == 0, within_s=4)
        writer.close()
        del reader


async def test_one_connection_serves_many_requests() -> None:
    async with live() as house:
        reader, writer = await house.connect()
        body = json.dumps({"messages": HELLO}).encode()
        for _ in range(20):
            writer.write(head(CHAT, len(body)) + body)
            assert (await read_answer(reader)).status == 200
        writer.close()
