"""The bounds of a request as stock clients send them: openai's SDK, a gRPC channel, requests."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import openai
import pytest
import pytest_asyncio
import requests
from google.rpc import error_details_pb2

from tests.doors.grpc.live import detail, png
from tests.doors.http.live import House, data_url, live, picture_part, text_part, user
from tests.media import clips
from tests.scripted import MODEL, ScriptedEngine
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.errors import ServeError
from vlserve.types import ChatRequest, ImageRef, MediaBounds, Message, Role, VideoRef

pytestmark = pytest.mark.asyncio(loop_scope="session")
Doors = House[ScriptedEngine]
Ask = Callable[[Doors, dict[str, int]], Awaitable[str]]
PICTURE = data_url()
CLIP = clips.animation("GIF")
CLIP_URL = f"data:image/gif;base64,{base64.b64encode(CLIP).decode()}"


@pytest_asyncio.fixture(loop_scope="session")
async def house() -> AsyncIterator[Doors]:
    async with live() as doors:
        yield doors


# Each asks about a picture of 8 x 6 and gives the name of the field at fault, "" for an answer.


async def by_chat(house: Doors, bounds: dict[str, int]) -> str:
    async with house.client() as client:
        try:
            await client.chat.completions.create(
                model=MODEL,
                messages=[user(picture_part(), text_part("a"))],
                extra_body={"media_bounds": bounds},
            )
        except openai.BadRequestError as error:
            return error.param or ""
    return ""


async def by_responses(house: Doors, bounds: dict[str, int]) -> str:
    part = {"type": "input_image", "image_url": PICTURE, "detail": "auto"}
    turns: Any = [{"role": "user", "content": [part]}]
    async with house.client() as client:
        try:
            await client.responses.create(
                model=MODEL, input=turns, extra_body={"media_bounds": bounds}
            )
        except openai.BadRequestError as error:
            return error.param or ""
    return ""


async def by_channel(house: Doors, bounds: dict[str, int]) -> str:
    wire = pb.VisionRequest(image=png(), media_bounds=pb.MediaBounds(**bounds))
    async with house.grpc_client() as client:
        try:
            await client.chat(wire)
        except grpc.aio.AioRpcError as error:
            (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
            return str(violation.field)
    return ""


async def posted(house: Doors, **how: Any) -> str:
    url = f"{house.url}/process_image"
    answer = await asyncio.to_thread(requests.post, url, timeout=10, **how)
    if answer.status_code == 200:
        return ""
    assert answer.status_code == 400
    return str(answer.json()["error"]["param"])


async def by_json(house: Doors, bounds: dict[str, int]) -> str:
    return await posted(house, json={"image_data": PICTURE, "media_bounds": bounds})


async def by_form(house: Doors, bounds: dict[str, int]) -> str:
    form = {"media_bounds": json.dumps(bounds)}
    return await posted(house, files={"image": ("a.png", png())}, data=form)


ASKS: dict[Ask, str] = {
    by_chat: "messages[0].content[0].image_url.url",
    by_responses: "input[0].content[0].image_url",
    by_channel: "image",
    by_json: "image_data",
    by_form: "image",
}


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.__name__)
async def test_a_stock_client_lowers_bounds_and_raises_none(house: Doors, ask: Ask) -> None:
    picture, num_bytes = ASKS[ask], len(png())
    cases: list[tuple[dict[str, int], str]] = [
        ({}, ""),
        ({"max_images": 1, "max_image_pixels": 48, "max_image_bytes": num_bytes}, ""),
        ({"max_video_frames": 32}, ""),
        ({"max_image_pixels": 47}, picture),
        ({"max_image_bytes": num_bytes - 1}, picture),
        *(
            ({name: value}, f"media_bounds.{name}")
            for name, most in {
                "max_images": 32,
                "max_image_bytes": 64 << 20,
                "max_image_pixels": 50_000_000,
                "max_video_frames": 32,
            }.items()
            for value in (0, most + 1)
        ),
    ]
    found = [await ask(house, bounds) for bounds, _ in cases]
    num_held = sum(name == wanted for name, (_, wanted) in zip(found, cases, strict=True))
    print(f"{ask.__name__}: tried {len(cases)}, held {num_held}")
    assert found == [wanted for _, wanted in cases]


async def test_the_frames_of_a_video_by_each_way_to_say_so(house: Doors) -> None:
    async def chat(**said: Any) -> None:
        part = {"type": "video_url", "video_url": {"url": CLIP_URL}}
        turns: Any = [user(part, text_part("a"))]
        async with house.client() as client:
            await client.chat.completions.create(model=MODEL, messages=turns, extra_body=said)

    async def channel(max_frames: int = 0, **bounds: int) -> None:
        parts = [pb.Part(video=CLIP, max_frames=max_frames)]
        message = pb.Message(role=pb.ROLE_USER, parts=parts)
        wire = pb.VisionRequest(messages=[message], media_bounds=pb.MediaBounds(**bounds))
        async with house.grpc_client() as client:
            await client.chat(wire)

    await chat(media_bounds={"max_video_frames": 3})
    await chat(media_io_kwargs={"video": {"num_frames": 3}})  # as vLLM's clients do
    await channel(max_video_frames=3)
    await channel(max_frames=3)
    await channel(max_frames=3, max_video_frames=5)
    seen = [
        [clips.number(picture.pixels) for picture in request.messages[0].pictures()]
        for request in house.engine.seen
    ]
    assert seen == [seen[0]] * 5
    assert len(seen[0]) == 3
    house.engine.seen.clear()
    await chat(media_io_kwargs={"video": {"num_frames": 16}})  # above what is given unasked
    await channel(max_video_frames=16)
    await channel(max_frames=16)
    await channel()
    asked = [len(list(request.messages[0].pictures())) for request in house.engine.seen]
    assert asked == [16, 16, 16, 8]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel(max_frames=5, max_video_frames=3)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    text = "video: must ask for at most 3 frames (the request's own max_video_frames), not 5"
    assert f"messages[0].parts[0].{text}" in str(raised.value)


async def test_a_client_of_ours_sends_its_bounds(house: Doors) -> None:
    message: Message[ImageRef | VideoRef] = Message(Role.USER, (ImageRef(png()), "a"))

    async def ask(num_pixels: int) -> str:
        bounds = MediaBounds(max_image_pixels=num_pixels)
        request = ChatRequest((message,), media_bounds=bounds)
        async with house.grpc_client() as client:
            return "".join([chunk.text async for chunk in client.ask(request)])

    assert await ask(48)
    with pytest.raises(ServeError) as refused:
        await ask(47)
    assert refused.value.field == "messages[0].parts[0].image"
