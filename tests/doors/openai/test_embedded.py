"""The model that is inside, asked by OpenAI's own client."""

import asyncio
import threading
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any, Literal

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from tests.doors.http.live import House, data_url, picture_part, served, text_part, user
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.engines.base import Engine
from vlserve.engines.catalog import make_engine
from vlserve.example import picture
from vlserve.settings import EngineSettings, ModelSettings

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(
        not (resources.files("vlserve.models") / "embedded" / "config.json").is_file(),
        reason="the package holds no model yet",
    ),
]
NUM_STREAMS = 20  # of three answers each
QUESTION = "Describe the image"
ASKED = [user(picture_part(picture().read_bytes()), text_part(QUESTION))]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house() -> AsyncIterator[House[Engine]]:
    engine = make_engine(ModelSettings(), EngineSettings())
    await engine.start()
    async with served(engine) as house:
        yield house
    await engine.close()


async def test_the_same_answer_through_every_door(house: House[Engine]) -> None:
    async with house.client() as client, house.grpc_client() as caller:
        model = (await client.models.list()).data[0].id
        typed = await caller.chat(pb.VisionRequest(image=picture().read_bytes(), prompt=QUESTION))
        chat = await client.chat.completions.create(model=model, messages=ASKED)
        stream = await client.chat.completions.create(model=model, messages=ASKED, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        turns: Any = [
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": data_url(picture().read_bytes())},
                    {"type": "input_text", "text": QUESTION},
                ],
            }
        ]
        response = await client.responses.create(model=model, input=turns)
    simple = await house.post("/process_image", {"image_data": data_url(picture().read_bytes())})
    told = {
        typed.text,
        chat.choices[0].message.content,
        "".join(pieces),
        response.output_text,
        simple.json["description"],
    }
    assert len(told) == 1, told
    assert len(typed.text.split()) > 3
    assert len(pieces) > 5
    usage = chat.usage
    assert usage is not None
    assert usage.prompt_tokens == typed.usage.prompt_tokens
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.image_tokens == typed.usage.image_tokens > 0
    assert usage.completion_tokens == typed.usage.completion_tokens


class Shape(BaseModel):
    colour: Literal["red", "green", "blue"]
    round: bool


async def test_an_answer_of_a_schema_is_parsed(house: House[Engine]) -> None:
    async with house.client() as client:
        model = (await client.models.list()).data[0].id
        completion = await client.chat.completions.parse(
            model=model, messages=ASKED, response_format=Shape
        )
        response = await client.responses.parse(model=model, input=QUESTION, text_format=Shape)
        async with client.responses.stream(
            model=model, input=QUESTION, text_format=Shape
        ) as stream:
            streamed = (await stream.get_final_response()).output_parsed
    assert isinstance(completion.choices[0].message.parsed, Shape)
    assert isinstance(response.output_parsed, Shape)
    assert streamed == response.output_parsed


async def test_several_answers_of_a_schema_are_parsed_as_they_stream(house: House[Engine]) -> None:
    """OpenAI's helper ends in IndexError where a later answer is told of first."""
    num_held = 0
    async with house.client() as client:
        model = (await client.models.list()).data[0].id
        for seed in range(NUM_STREAMS):
            async with client.chat.completions.stream(
                model=model, messages=ASKED, response_format=Shape, n=3, temperature=1, seed=seed
            ) as stream:
                async for _ in stream:
                    pass
                final = await stream.get_final_completion()
            assert [choice.index for choice in final.choices] == [0, 1, 2]
            assert all(isinstance(choice.message.parsed, Shape) for choice in final.choices)
            num_held += 1
    print(f"tried {NUM_STREAMS}, held {num_held}")


async def test_a_schema_that_cannot_be_followed_is_refused_by_name(house: House[Engine]) -> None:
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "no such type"}},
    }
    async with house.client() as client:
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="", messages=ASKED, response_format=form)
    assert bad.value.param == "response_format"


async def test_answers_that_are_drawn(house: House[Engine]) -> None:
    asked: dict[str, Any] = {
        "model": "", "messages": ASKED, "n": 3, "temperature": 1.5, "seed": 7, "max_tokens": 12,
        "logprobs": True, "top_logprobs": 3,
    }  # fmt: skip
    async with house.client() as client:
        first = await client.chat.completions.create(**asked)
        second = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True)
        texts = {0: "", 1: "", 2: ""}
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    told = [choice.message.content for choice in first.choices]
    assert told == [choice.message.content for choice in second.choices] == list(texts.values())
    assert len(set(told)) > 1
    tokens = [choice.logprobs.content or [] for choice in first.choices if choice.logprobs]
    spelled = [bytes(b for token in each for b in token.bytes or []).decode() for each in tokens]
    assert spelled == told
    assert all(len(token.top_logprobs) == 3 for each in tokens for token in each)


async def test_the_sync_client_streams(house: House[Engine]) -> None:
    told: list[str] = []
    url = f"{house.url}/v1"

    def ask() -> None:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(model="", messages=ASKED, stream=True)
            told.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))
            answer = client.chat.completions.create(model="", messages=ASKED)
            told.append(answer.choices[0].message.content or "")

    thread = threading.Thread(target=ask)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert told[0] == told[1] != ""
