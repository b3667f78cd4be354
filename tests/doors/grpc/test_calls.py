"""What the calls answer and what they refuse, over a real channel."""

import hashlib
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.doors.grpc.live import detail, live, png, refusal, retry_after_s
from tests.scripted import MODEL
from vlserve.doors.grpc import wire_cost
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.grpc.server import GrpcDoor
from vlserve.errors import FAILED
from vlserve.settings import GrpcSettings, LimitSettings
from vlserve.types import ChatRequest, Guide, GuideKind, Message, Role, SamplingParams

# One event loop for all: grpc.aio holds on to the first one that it meets.
pytestmark = pytest.mark.asyncio(loop_scope="session")
SHA = hashlib.sha256(b"8x6:" + bytes([255, 0, 0]) * 48).hexdigest()
USER = pb.ROLE_USER
TEXT = pb.Part(text="hello")


def user(*parts: pb.Part) -> pb.Message:
    return pb.Message(role=USER, parts=parts)


async def test_picture_and_prompt() -> None:
    async with live() as house:
        answer = await house.client.chat(pb.VisionRequest(image=png(), prompt="what is this"))
    assert answer.text == f"{SHA} what is this "
    assert answer.finish_reason == pb.FINISH_REASON_STOP
    assert answer.model == MODEL
    assert answer.usage == pb.Usage(
        prompt_tokens=14, text_tokens=4, image_tokens=10, completion_tokens=4
    )


async def test_defaults_are_greedy_and_two_hundred_tokens() -> None:
    async with live() as house:
        await house.client.chat(pb.VisionRequest(prompt="hello"))
        sampling = house.engine.seen[0].sampling
    assert (sampling.max_tokens, sampling.temperature) == (200, 0)
    assert (sampling.top_p, sampling.top_k, sampling.seed, sampling.stop) == (1, 0, None, ())


async def test_stream_has_the_same_text_in_pieces() -> None:
    async with live() as house:
        request = pb.VisionRequest(image=png(), prompt="what is this")
        pieces = [piece async for piece in house.client.chat_stream(request)]
        whole = await house.client.chat(request)
    assert [piece.text for piece in pieces] == [f"{SHA} ", "what ", "is ", "this ", ""]
    assert all(not piece.HasField("usage") for piece in pieces[:-1])
    assert {piece.finish_reason for piece in pieces[:-1]} == {pb.FINISH_REASON_UNSPECIFIED}
    assert pieces[-1].finish_reason == whole.finish_reason
    assert pieces[-1].usage == whole.usage


async def test_turns_and_pictures_keep_their_order() -> None:
    async with live() as house:
        request = pb.VisionRequest(
            messages=[
                pb.Message(role=pb.ROLE_SYSTEM, parts=[TEXT]),
                user(pb.Part(image=png()), pb.Part(text="first")),
                pb.Message(role=pb.ROLE_ASSISTANT, parts=[TEXT]),
                user(pb.Part(text="a"), pb.Part(image=png((0, 0, 9))), pb.Part(text="b")),
            ],
            sampling=pb.Sampling(
                max_tokens=7, temperature=0.7, top_p=0.5, top_k=3, seed=0, stop=["x", "y"]
            ),
            model=MODEL,
        )
        await house.client.chat(request)
        seen = house.engine.seen[0]
    assert [message.role for message in seen.messages] == ["system", "user", "assistant", "user"]
    kinds = [[type(part).__name__ for part in message.content] for message in seen.messages]
    assert kinds == [["str"], ["Image", "str"], ["str"], ["str", "Image", "str"]]
    assert seen.sampling.seed == 0
    assert seen.sampling.stop == ("x", "y")
    assert seen.sampling.temperature == pytest.approx(0.7)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {}),
    ("image", {"image": b"no picture", "prompt": "p"}),
    ("image", {"image": png(), "messages": [user(TEXT)]}),
    ("prompt", {"prompt": "p", "messages": [user(TEXT)]}),
    ("messages[0].role", {"messages": [pb.Message(parts=[TEXT])]}),
    ("messages[0].role", {"messages": [pb.Message(role=9, parts=[TEXT])]}),  # type: ignore[arg-type]
    ("messages[0].parts", {"messages": [pb.Message(role=USER)]}),
    ("messages[0].parts[1]", {"messages": [user(TEXT, pb.Part())]}),
    ("messages[0]", {"messages": [user(pb.Part(text=""))]}),
    ("messages[0].parts[1].image", {"messages": [user(TEXT, pb.Part(image=b"x"))]}),
    ("messages[0].parts[0].image", {"messages": [user(pb.Part(image=b""), TEXT)]}),
    (
        "messages[1].role",
        {"messages": [user(TEXT), pb.Message(role=pb.ROLE_ASSISTANT, parts=[TEXT])]},
    ),
    (
        "messages[0].parts[0].image",
        {
            "messages": [
                pb.Message(role=pb.ROLE_SYSTEM, parts=[pb.Part(image=png())]),
                user(TEXT),
            ]
        },
    ),
    ("messages[0].parts[2].image", {"messages": [user(*[pb.Part(image=png())] * 3)]}),
    ("sampling.n", {"prompt": "p", "sampling": pb.Sampling(n=0)}),
    ("sampling.n", {"prompt": "p", "sampling": pb.Sampling(n=17)}),
    ("sampling.logprobs", {"prompt": "p", "sampling": pb.Sampling(logprobs=21)}),
    ("sampling.regex", {"prompt": "p", "sampling": pb.Sampling(regex="refused")}),
    ("sampling.json_schema", {"prompt": "p", "sampling": pb.Sampling(json_schema="x" * 70_000)}),
    ("sampling.choice", {"prompt": "p", "sampling": pb.Sampling(choice=pb.Choice(texts=[""]))}),
    ("sampling.temperature", {"prompt": "p", "sampling": pb.Sampling(temperature=2.5)}),
    ("sampling.temperature", {"prompt": "p", "sampling": pb.Sampling(temperature=float("nan"))}),
    ("sampling.top_p", {"prompt": "p", "sampling": pb.Sampling(top_p=0)}),
    ("sampling.min_p", {"prompt": "p", "sampling": pb.Sampling(min_p=1.5)}),
    ("sampling.presence_penalty", {"prompt": "p", "sampling": pb.Sampling(presence_penalty=3)}),
    ("sampling.frequency_penalty", {"prompt": "p", "sampling": pb.Sampling(frequency_penalty=-3)}),
    ("sampling.repetition_penalty", {"prompt": "p", "sampling": pb.Sampling(repetition_penalty=0)}),
    ("sampling.logit_bias", {"prompt": "p", "sampling": pb.Sampling(logit_bias={1: 101})}),
    ("sampling.min_tokens", {"prompt": "p", "sampling": pb.Sampling(min_tokens=201)}),
    ("sampling.stop_token_ids", {"prompt": "p", "sampling": pb.Sampling(stop_token_ids=[1] * 65)}),
    ("detail", {"prompt": "p", "detail": pb.DETAIL_LOW}),
    ("detail", {"image": png(), "detail": 9}),
    ("detail", {"messages": [user(TEXT)], "detail": pb.DETAIL_LOW}),
    ("messages[0].parts[0].detail", {"messages": [user(pb.Part(text="a", detail=pb.DETAIL_LOW))]}),
    (
        "messages[0].parts[0].detail",
        {"messages": [user(pb.Part(video=b"x", detail=pb.DETAIL_LOW))]},
    ),
    ("sampling.max_tokens", {"prompt": "p", "sampling": pb.Sampling(max_tokens=0)}),
    ("sampling.seed", {"prompt": "p", "sampling": pb.Sampling(seed=2**64 - 1)}),
    ("sampling.stop", {"prompt": "p", "sampling": pb.Sampling(stop=[""])}),
]


@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
async def test_refusals_name_the_callers_field(is_stream: bool) -> None:
    async with live(max_images=2) as house:
        for field, request in REFUSED:
            wire = pb.VisionRequest(**request)
            error = (await refusal(house.client, wire, is_stream=is_stream)).error
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (field, error)
            (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
            assert violation.field == field
            assert error.details() == f"{field}: {violation.description}"
        assert not house.engine.seen
        assert house.service.num_inside == 0


@pytest.mark.parametrize(
    ("path", "request_bytes"),
    [
        ("request", pb.VisionRequest(prompt="p").SerializeToString() + b"\x98\x06\x01"),
        ("sampling", b"\x12\x01p\x2a\x03\x98\x06\x01"),
        ("media_bounds", b"\x12\x01p\x3a\x03\x98\x06\x01"),
        ("messages[0]", b"\x22\x0a\x08\x02\x12\x03\x0a\x01p\x98\x06\x01"),
        ("messages[0].parts[0]", b"\x22\x0a\x08\x02\x12\x06\x0a\x01p\x98\x06\x01"),
    ],
)
async def test_a_field_that_this_server_does_not_know_is_refused(
    path: str, request_bytes: bytes
) -> None:
    async with live() as house:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await house.client.chat(pb.VisionRequest.FromString(request_bytes))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == f"{path}: field number 99 is not known"


async def test_unknown_model_is_not_found() -> None:
    async with live() as house:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await house.client.chat(pb.VisionRequest(prompt="p", model="other"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert (refused.value.details() or "").startswith("model: ")


@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
async def test_a_failure_inside_says_nothing_about_the_inside(
    is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with live() as house:
        wire = pb.VisionRequest(prompt="a break")
        failed = await refusal(house.client, wire, is_stream=is_stream)
        assert house.service.num_inside == 0
    assert failed.error.code() is grpc.StatusCode.INTERNAL
    assert failed.error.details() == FAILED
    assert failed.texts == (["a "] if is_stream else [])
    assert "Traceback" in caplog.text


async def test_models() -> None:
    async with live() as house:
        answer = await house.client.list_models(pb.ListModelsRequest())
    (model,) = answer.models
    assert model == pb.Model(
        name=MODEL, engine="scripted", max_context_tokens=4096, is_batched=True
    )


async def test_before_it_is_open_nothing_is_answered_and_health_says_so() -> None:
    async with live(is_open=False) as house:
        assert not await house.client.is_serving()
        assert not await house.client.is_serving("")
        for call in (
            house.client.chat(pb.VisionRequest(prompt="p")),
            house.client.list_models(pb.ListModelsRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert retry_after_s(refused.value) > 0
        house.service.open()
        await house.door.announce(is_serving=True)
        assert await house.client.is_serving()
        assert await house.client.is_serving("")
        assert not await house.client.is_serving("no.such.Service")


async def test_reflection_lists_the_service_and_its_file() -> None:
    async with live() as house, grpc.aio.insecure_channel(house.door.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="vision.VisionService"),
        ]
        listed, file = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert {"vision.VisionService", "grpc.health.v1.Health"} <= names
    (described,) = file.file_descriptor_response.file_descriptor_proto
    assert described == pb.DESCRIPTOR.serialized_pb


async def test_every_call_of_the_proto_file_is_answered() -> None:
    methods = pb.DESCRIPTOR.services_by_name["VisionService"].methods
    async with live() as house, grpc.aio.insecure_channel(house.door.address) as channel:
        for method in methods:
            path = f"/{method.containing_service.full_name}/{method.name}"
            call = channel.unary_unary(path, None, None)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"\x98\x06\x01")
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method.name


async def test_a_message_above_the_bound_is_refused_and_one_below_is_not() -> None:
    async with live(max_message_mib=1) as house:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await house.client.chat(pb.VisionRequest(prompt="x" * (1 << 20)))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        text = "x" * ((1 << 20) - 100)
        assert (await house.client.chat(pb.VisionRequest(prompt=text))).text == text + " "


async def test_a_taken_port_is_an_error() -> None:
    async with live() as house:
        port = int(house.door.address.rsplit(":", 1)[1])
        second = GrpcDoor(house.service, LimitSettings(), GrpcSettings(port=port))
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await second.start()
        await second.stop()


@pytest.mark.parametrize("name", ["Chat", "ChatStream", "ListModels"])
async def test_bytes_that_are_no_message_are_refused_as_such(name: str) -> None:
    async with live() as house, grpc.aio.insecure_channel(house.door.address) as channel:
        path = f"/vision.VisionService/{name}"
        call = channel.unary_stream(path, bytes, bytes)(b"\x12\x05cut")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(aiter(call))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (
        refused.value.details()
        == "request: is not a message of this call, or has more than 65536 fields"
    )


@pytest.mark.parametrize("is_guarded", [True, False], ids=["guarded", "control"])
async def test_what_takes_long_to_read_is_not_read(
    is_guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_guarded:
        monkeypatch.setattr(wire_cost, "MAX_FIELDS", 1 << 40)
    many = {
        "messages": pb.VisionRequest(messages=[pb.Message()] * 100_000),
        "messages[0]": pb.VisionRequest(messages=[pb.Message(parts=[TEXT] * 100_000)]),
        "stop": pb.VisionRequest(sampling=pb.Sampling(stop=[""] * 100_000)),
        "stop_token_ids": pb.VisionRequest(sampling=pb.Sampling(stop_token_ids=[1] * 100_000)),
        "logit_bias": pb.VisionRequest(
            sampling=pb.Sampling(logit_bias=dict.fromkeys(range(50_000), 1.0))
        ),
        "unknown": pb.VisionRequest.FromString(b"\xa0\x06\x01" * 100_000),
    }
    text = "request: is not a message of this call, or has more than 65536 fields"
    async with live() as house:
        for name, wire in many.items():
            refused = (await refusal(house.client, wire, is_stream=False)).error
            assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (refused.details() == text) is is_guarded, name
        most = pb.VisionRequest(prompt="x" * 100_000, sampling=pb.Sampling(stop=["y"] * 16))
        assert (await house.client.chat(most)).text


async def test_a_group_hides_nothing() -> None:
    """No message here has any, and protobuf reads and keeps them."""
    data = b"\xa3\x06\xa4\x06" + b"\x22\x00" * 100_000
    assert len(pb.VisionRequest.FromString(data).messages) == 100_000
    async with live() as house, grpc.aio.insecure_channel(house.door.address) as channel:
        call = channel.unary_unary("/vision.VisionService/Chat", bytes, bytes)(data)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == (
            "request: is not a message of this call, or has more than 65536 fields"
        )


async def test_too_many_parts_are_refused_at_once() -> None:
    async with live() as house:
        many = pb.VisionRequest(messages=[user(*[TEXT] * 1500), user(*[TEXT] * 1500)])
        error = await refusal(house.client, many, is_stream=False)
    assert error.error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error.error, error_details_pb2.BadRequest).field_violations[0].field == "messages"


async def test_penalties_and_biases_arrive() -> None:
    sampling = pb.Sampling(
        min_p=0.5, presence_penalty=1, frequency_penalty=-1, repetition_penalty=1.5,
        logit_bias={7: -2.5}, min_tokens=3, stop_token_ids=[4, 5],
    )  # fmt: skip
    async with live() as house:
        await house.client.chat(pb.VisionRequest(prompt="hello", sampling=sampling))
        seen = house.engine.seen[0].sampling
    assert (seen.min_p, seen.presence_penalty, seen.frequency_penalty) == (0.5, 1, -1)
    assert (seen.repetition_penalty, seen.logit_bias) == (1.5, {7: -2.5})
    assert (seen.min_tokens, seen.stop_token_ids) == (3, (4, 5))


GUIDES = {
    "json_object": (pb.Sampling(json_object=True), Guide(GuideKind.JSON_OBJECT)),
    "json_object off": (pb.Sampling(json_object=False), None),
    "json_schema": (pb.Sampling(json_schema="{}"), Guide(GuideKind.JSON_SCHEMA, "{}")),
    "regex": (pb.Sampling(regex="a+"), Guide(GuideKind.REGEX, "a+")),
    "choice": (
        pb.Sampling(choice=pb.Choice(texts=["a", "b c"])),
        Guide(GuideKind.CHOICE, choices=("a", "b c")),
    ),
    "none": (pb.Sampling(), None),
}


@pytest.mark.parametrize("name", GUIDES)
async def test_guides_arrive_and_a_client_sends_them_as_they_are(name: str) -> None:
    sampling, guide = GUIDES[name]
    async with live() as house:
        await house.client.chat(pb.VisionRequest(prompt="hello", sampling=sampling))
        assert house.engine.seen[0].sampling.guide == guide
        wanted = SamplingParams(guide=guide, logprobs=3, n=2, seed=4)
        request = ChatRequest((Message(Role.USER, ("hello",)),), wanted)
        assert [text async for text in house.client.ask(request)]
    first, second = (each.sampling for each in house.engine.seen[1:])
    assert (first, second) == (replace(wanted, n=1), replace(wanted, n=1, seed=5))


async def test_a_part_of_a_guide_that_is_not_known_is_refused() -> None:
    newer = pb.Choice.FromString(pb.Choice(texts=["a"]).SerializeToString() + b"\x78\x01")
    wire = pb.VisionRequest(prompt="p", sampling=pb.Sampling(choice=newer))
    async with live() as house:
        error = (await refusal(house.client, wire, is_stream=False)).error
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == (
        "sampling.choice",
        "field number 15 is not known",
    )


async def test_several_answers_in_one_message_and_in_one_stream() -> None:
    request = pb.VisionRequest(prompt="hello you", sampling=pb.Sampling(n=3))
    async with live() as house:
        whole = await house.client.chat(request)
        pieces = [piece async for piece in house.client.chat_stream(request)]
        assert house.service.num_inside == 0
    answers = [whole, *whole.others]
    assert [each.index for each in answers] == [0, 1, 2]
    assert {each.text for each in answers} == {"hello you "}
    assert {each.finish_reason for each in answers} == {pb.FINISH_REASON_STOP}
    assert [each.HasField("usage") for each in answers] == [True, False, False]
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (12, 3 * 2)
    for index in range(3):
        its = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in its) == "hello you "
        assert [bool(piece.finish_reason) for piece in its] == [False] * (len(its) - 1) + [True]
        assert (its[-1].usage.prompt_tokens, its[-1].usage.completion_tokens) == (12, 2)


async def test_logprobs_come_with_their_tokens() -> None:
    request = pb.VisionRequest(prompt="hello you", sampling=pb.Sampling(logprobs=1))
    async with live() as house:
        whole = await house.client.chat(request)
        pieces = [piece async for piece in house.client.chat_stream(request)]
        without = await house.client.chat(pb.VisionRequest(prompt="hello you"))
    assert [token.text for token in whole.logprobs] == ["hello", "you"]
    assert [len(piece.logprobs) for piece in pieces] == [1, 1, 0]
    assert [token for piece in pieces for token in piece.logprobs] == list(whole.logprobs)
    first = whole.logprobs[0]
    assert (first.token_id, first.logprob, first.data) == (0, -0.5, b"hello")
    (top,) = first.top
    assert (top.token_id, top.logprob, top.data, top.text) == (1, -0.25, b"\xc3", "\ufffd")
    assert not without.logprobs


async def test_a_client_asks_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with live() as house:
        assert await house.client.is_serving()
