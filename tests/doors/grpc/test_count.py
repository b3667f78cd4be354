"""The dry run, and pictures by reference, over a real channel."""

import base64

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from tests.doors.grpc.live import detail, live, png, refusal, retry_after_s
from tests.scripted import MODEL
from tests.waiting import until
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.errors import FAILED
from vlserve.types import ChatRequest, ImageRef, Message, Role

# One event loop for all: grpc.aio holds on to the first one that it meets.
pytestmark = pytest.mark.asyncio(loop_scope="session")


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def user(*parts: pb.Part) -> pb.VisionRequest:
    return pb.VisionRequest(messages=[pb.Message(role=pb.ROLE_USER, parts=parts)])


async def test_a_count_says_what_the_answer_will_take() -> None:
    wire = user(
        pb.Part(image=png()), pb.Part(text="what is this"), pb.Part(image=png(size=(20, 30)))
    )
    wire.sampling.max_tokens = 4096 - 23
    async with live() as house:
        count = await house.client.count_tokens(wire)
        assert not house.engine.seen
    assert count == pb.TokenCount(
        prompt_tokens=23,
        text_tokens=3,
        image_tokens=20,
        max_context_tokens=4096,
        max_tokens=4096 - 23,
        fits=True,
        images=[
            pb.ImageCount(tokens=10, tiles=2, width=8, height=6),
            pb.ImageCount(tokens=10, tiles=2, width=20, height=30),
        ],
        model=MODEL,
    )


@pytest.mark.parametrize(("max_tokens", "fits"), [(4094, True), (4095, False)])
async def test_it_fits_or_not(max_tokens: int, fits: bool) -> None:
    wire = pb.VisionRequest(prompt="two words", sampling=pb.Sampling(max_tokens=max_tokens))
    async with live() as house:
        count = await house.client.count_tokens(wire)
    assert (count.max_tokens, count.fits) == (max_tokens, fits)


async def test_bounds_of_a_request_hold_for_its_count() -> None:
    async with live() as house:
        bounds = pb.MediaBounds(max_image_pixels=48)
        wire = pb.VisionRequest(image=png(), media_bounds=bounds)
        assert (await house.client.count_tokens(wire)).images[0].width == 8
        wire.media_bounds.max_image_pixels = 47
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await house.client.count_tokens(wire)
    assert refused.value.details() == (
        "image: has 8 x 6 = 48 pixels; scale it to at most 47 (the request's own max_image_pixels)"
    )


async def test_the_default_answer_counts() -> None:
    async with live() as house:
        count = await house.client.count_tokens(pb.VisionRequest(prompt="two words"))
    assert (count.max_tokens, count.fits) == (200, True)


async def test_a_count_is_refused_as_the_request_is() -> None:
    for wire in (
        pb.VisionRequest(),
        pb.VisionRequest(image=b"no picture"),
        pb.VisionRequest(prompt="p", sampling=pb.Sampling(temperature=3)),
        pb.VisionRequest(prompt="p", sampling=pb.Sampling(max_tokens=0)),
        pb.VisionRequest(prompt="p", model="other"),
    ):
        async with live() as house:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await house.client.count_tokens(wire)
            as_ever = (await refusal(house.client, wire, is_stream=False)).error
        assert refused.value.code() is as_ever.code()
        assert refused.value.details() == as_ever.details()
        assert not house.service.num_inside


async def test_a_failure_of_a_count_says_nothing_about_the_inside() -> None:
    async with live() as house:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await house.client.count_tokens(pb.VisionRequest(prompt="break"))
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert refused.value.details() == FAILED


async def test_a_count_that_finds_no_place_is_told_when_to_come_again() -> None:
    async with live(max_waiting=0) as house:
        holding = [house.client.chat(pb.VisionRequest(prompt="hold")) for _ in range(4)]
        await until(lambda: house.service.num_inside == 4)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await house.client.count_tokens(pb.VisionRequest(prompt="p"))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_after_s(refused.value) > 0
        for call in holding:
            call.cancel()


async def test_a_picture_by_reference_is_the_picture() -> None:
    async with live() as house:
        by_bytes = await house.client.chat(user(pb.Part(image=png()), pb.Part(text="p")))
        for wire in (
            user(pb.Part(image_url=url(png())), pb.Part(text="p")),
            pb.VisionRequest(image_url=url(png()), prompt="p"),
        ):
            assert (await house.client.chat(wire)).text == by_bytes.text
        turn = Message(Role.USER, (ImageRef(url=url(png())), "p"))
        asked = house.client.ask(ChatRequest((turn,)))
        assert "".join([chunk.text async for chunk in asked]) == by_bytes.text


async def test_a_reference_that_is_no_picture_is_refused_by_its_name() -> None:
    field = "messages[0].parts[0].image_url"
    for named, wire in (
        (field, user(pb.Part(image_url="ftp://somewhere/a.png"), pb.Part(text="p"))),
        (field, user(pb.Part(image_url="data:image/png;base64,!!!"), pb.Part(text="p"))),
        (field, user(pb.Part(image_url=url(b"no picture")), pb.Part(text="p"))),
        (field, user(pb.Part(image_url=""), pb.Part(text="p"))),
        ("image_url", pb.VisionRequest(image_url="no reference", prompt="p")),
        ("image_url", pb.VisionRequest(image=png(), image_url=url(png()), prompt="p")),
        (
            "image_url",
            pb.VisionRequest(
                image_url=url(png()),
                messages=[pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="p")])],
            ),
        ),
    ):
        async with live() as house:
            error = (await refusal(house.client, wire, is_stream=True)).error
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, wire
        (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
        assert violation.field == named
