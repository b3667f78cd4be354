"""What the stock client does not show: other ways to write a request, and what is refused."""

import asyncio
import base64
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from tests.doors.grpc.live import detail, live, png, retry_after_s
from tests.doors.kserve.asked import SERVICE, InferenceClient, add, asked, outputs, packed
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.doors.kserve.pb import inference_pb2 as pb
from vlserve.doors.kserve.servicer import MAX_AT_ONCE
from vlserve.errors import FAILED
from vlserve.types import Guide, GuideKind

# One event loop for all: grpc.aio holds on to the first one that it meets.
pytestmark = pytest.mark.asyncio(loop_scope="session")
Wire = pb.ModelInferRequest
NUM_SPOILED = 500
NO_MESSAGE = "request: is not a message of this call, or has more than 65536 fields"
SEED = 4


async def test_contents_in_place_of_raw_ones() -> None:
    wire = Wire(id="7")
    for name, kind, contents in (
        ("text_input", "BYTES", pb.InferTensorContents(bytes_contents=[b"hello"])),
        ("image", "BYTES", pb.InferTensorContents(bytes_contents=[png(), png()])),
        ("return_finish_reason", "BOOL", pb.InferTensorContents(bool_contents=[False])),
    ):
        size = len(contents.bytes_contents) or 1
        wire.inputs.add(name=name, datatype=kind, shape=[size], contents=contents)
    async with live() as house, InferenceClient(house.door.address) as client:
        answer = await client.infer(wire)
        assert len(list(house.engine.seen[0].messages[0].pictures())) == 2
    assert answer.id == "7"
    assert outputs(answer)["text_output"][0].endswith("hello ")
    assert set(outputs(answer)) == {"text_output", "num_input_tokens", "num_output_tokens"}


async def test_sampling_arrives_and_the_tensor_wins_over_the_parameters() -> None:
    written = {
        "max_tokens": "7", "min_tokens": 1, "temperature": 0.5, "top_p": "0.9", "top_k": 3,
        "min_p": 0.1, "seed": 2**63 - 1, "stop": "x", "stop_token_ids": [4, "5"],
        "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5,
        "logit_bias": {"7": -2.5}, "regex": "a+", "choice": None,
    }  # fmt: skip
    wire = asked(sampling=written)
    wire.parameters["seed"].int64_param = 1
    async with live() as house, InferenceClient(house.door.address) as client:
        await client.infer(wire)
        seen = house.engine.seen[0].sampling
    assert (seen.max_tokens, seen.min_tokens, seen.seed) == (7, 1, 2**63 - 1)
    assert (seen.temperature, seen.top_p, seen.top_k, seen.min_p) == (0.5, 0.9, 3, 0.1)
    assert (seen.stop, seen.stop_token_ids) == (("x",), (4, 5))
    assert (seen.presence_penalty, seen.frequency_penalty) == (1, -1)
    assert (seen.repetition_penalty, seen.logit_bias) == (1.5, {7: -2.5})
    assert seen.guide == Guide(GuideKind.REGEX, "a+")


@pytest.mark.parametrize(
    ("written", "guide"),
    [
        ({"json_object": True}, Guide(GuideKind.JSON_OBJECT)),
        ({"json_object": False}, None),
        ({"json_schema": {"type": "object"}}, Guide(GuideKind.JSON_SCHEMA, '{"type": "object"}')),
        ({"json_schema": "{}"}, Guide(GuideKind.JSON_SCHEMA, "{}")),
        ({"choice": ["a", "b"]}, Guide(GuideKind.CHOICE, choices=("a", "b"))),
    ],
)
async def test_guides_arrive(written: dict[str, Any], guide: Guide | None) -> None:
    async with live() as house, InferenceClient(house.door.address) as client:
        await client.infer(asked(sampling=written))
        assert house.engine.seen[0].sampling.guide == guide


async def test_several_answers_lie_side_by_side() -> None:
    async with live() as house, InferenceClient(house.door.address) as client:
        whole = outputs(await client.infer(asked(sampling={"n": 3})))
        pieces = await client.pieces(asked(sampling={"n": 3}, flags={"stream": True}))
    assert whole["text_output"] == ["hello you "] * 3
    assert (whole["num_output_tokens"], whole["num_input_tokens"]) == ([2] * 3, [12])
    assert whole["finish_reason"] == ["stop"] * 3
    found = [outputs(piece.infer_response) for piece in pieces]
    for i in range(3):
        assert "".join(piece["text_output"][i] for piece in found) == "hello you "
        assert sum(piece["num_output_tokens"][i] for piece in found) == 2
    assert found[-1]["finish_reason"] == ["stop"] * 3
    ends = [piece.infer_response.parameters["triton_final_response"].bool_param for piece in pieces]
    assert ends == [False] * (len(ends) - 1) + [True]


async def test_the_question_comes_back_where_it_is_asked_for() -> None:
    for flags, text in (
        ({}, "hello you "),
        ({"exclude_input_in_output": True}, "hello you "),
        ({"exclude_input_in_output": False}, "hello youhello you "),
    ):
        async with live() as house, InferenceClient(house.door.address) as client:
            answer = await client.infer(asked(flags=flags))
        assert outputs(answer)["text_output"] == [text]


@pytest.mark.parametrize(
    "name", ["finish_reason", "num_input_tokens", "num_output_tokens", "logprobs"]
)
async def test_each_output_comes_as_its_own_flag_says(name: str) -> None:
    async with live() as house, InferenceClient(house.door.address) as client:
        usual = set(outputs(await client.infer(asked())))
        for is_wanted in (True, False):
            answer = await client.infer(asked(flags={f"return_{name}": is_wanted}))
            assert set(outputs(answer)) == (usual | {name} if is_wanted else usual - {name})


async def test_logprobs_come_where_they_are_asked_for() -> None:
    flags = {"return_logprobs": True}
    async with live() as house, InferenceClient(house.door.address) as client:
        whole = outputs(await client.infer(asked(sampling={"logprobs": 1, "n": 2}, flags=flags)))
        null = outputs(await client.infer(asked(flags=flags)))
        without = outputs(await client.infer(asked(sampling={"logprobs": 1})))
        pieces = await client.pieces(
            asked(sampling={"logprobs": 1}, flags=flags | {"stream": True})
        )
    first, second = map(json.loads, whole["logprobs"])
    assert first == second
    assert first[0] == {
        "1": {"logprob": -0.25, "rank": 1, "decoded_token": "\ufffd"},
        "0": {"logprob": -0.5, "rank": None, "decoded_token": "hello"},
    }
    assert [len(first), null["logprobs"]] == [2, ["null"]]
    assert "logprobs" not in without
    found = [json.loads(outputs(each.infer_response)["logprobs"][0]) for each in pieces]
    assert [token for piece in found for token in piece] == first


async def test_bounds_within_the_limits_are_kept() -> None:
    bounds = {"max_images": 2, "max_image_bytes": len(png()), "max_image_pixels": "48"}
    wire = asked(images=(png(), png()), sampling=bounds | {"max_video_frames": None})
    wire.parameters["max_images"].int64_param = 1  # the tensor wins
    async with live() as house, InferenceClient(house.door.address) as client:
        await client.infer(wire)
        assert len(list(house.engine.seen[0].messages[0].pictures())) == 2


def changed(wire: Wire, **fields: Any) -> Wire:
    """The request with another first input."""
    wire.inputs[0].MergeFrom(Wire.InferInputTensor(**fields))
    return wire


def input_of(name: str, datatype: str, raw: bytes, size: int = 1) -> Wire:
    wire = asked()
    add(wire, name, datatype, raw, size)
    return wire


def with_parameter(name: str, **value: Any) -> Wire:
    wire = asked()
    wire.parameters[name].CopyFrom(pb.InferParameter(**value))
    return wire


def wanting(name: str) -> Wire:
    return asked(outputs=[Wire.InferRequestedOutputTensor(name=name)])


SAMPLING: list[tuple[str, Any]] = [
    ("", "no object"),
    ("", [1]),
    (".best_of", {"best_of": 2}),
    (".logprobs", {"logprobs": 21}),
    (".max_tokens", {"max_tokens": 0}),
    (".max_tokens", {"max_tokens": 1.5}),
    (".max_tokens", {"max_tokens": True}),
    (".max_tokens", {"max_tokens": "many"}),
    (".top_k", {"top_k": 2**70}),
    (".top_k", {"top_k": -2}),
    (".seed", {"seed": 2**63}),
    (".temperature", {"temperature": "warm"}),
    (".temperature", {"temperature": float("nan")}),
    (".temperature", {"temperature": 10**400}),
    (".top_p", {"top_p": [1]}),
    (".min_p", {"min_p": float("nan")}),
    (".stop", {"stop": 1}),
    (".stop[1]", {"stop": ["a", 1]}),
    (".stop[0]", {"stop": ["\ud800"]}),
    (".stop", {"stop": [""]}),
    (".stop_token_ids", {"stop_token_ids": 3}),
    (".stop_token_ids[0]", {"stop_token_ids": ["a"]}),
    (".logit_bias", {"logit_bias": [1]}),
    (".logit_bias", {"logit_bias": {"a": 1}}),
    (".logit_bias.7", {"logit_bias": {"7": "much"}}),
    (".n", {"n": 17}),
    (".regex", {"regex": "refused"}),
    (".regex", {"regex": 1}),
    (".regex", {"json_object": True, "regex": "a"}),
    (".json_object", {"json_object": 1}),
    (".max_images", {"max_images": 0}),
    (".max_images", {"max_images": -1}),
    (".max_images", {"max_images": 1.5}),
    (".max_image_bytes", {"max_image_bytes": 2**30 + 1}),
    (".max_image_pixels", {"max_image_pixels": 50_000_001}),
    (".max_video_frames", {"max_video_frames": 33}),
    (".media_bounds", {"media_bounds": {"max_images": 1}}),
    (".?", {"\ud800": 1}),
    (f".{'x' * 64}", {"x" * 100_000: 1}),
]
REFUSED: list[tuple[str, Wire]] = [
    *((f"sampling_parameters{end}", asked(sampling=value)) for end, value in SAMPLING),
    ("text_input", Wire()),
    ("text_input", asked("")),
    ("text_input", asked(b"\xff")),
    ("text_input", input_of("text_input", "BYTES", packed(b"x"))),
    ("text_input", changed(asked(), datatype="FP32")),
    ("text_input", changed(asked(), shape=[1])),
    ("text_input", changed(asked(), contents=pb.InferTensorContents(bytes_contents=[b"x"]))),
    ("text_input.shared_memory_region",
     changed(asked(), parameters={"shared_memory_region": pb.InferParameter(string_param="x")})),
    ("raw_input_contents", asked(raw_input_contents=[b"one more"])),
    ("video", input_of("video", "BYTES", packed(b"x"))),
    ("return_bits", input_of("return_bits", "BOOL", b"\x01")),
    ("inputs[1].name", input_of("", "BYTES", packed(b"x"))),
    ("x" * 64, input_of("x" * 100_000, "BYTES", packed(b"x"))),
    ("stream", input_of("stream", "BOOL", b"")),
    ("stream", input_of("stream", "BOOL", b"\x01")),
    ("image", input_of("image", "BYTES", packed(b"x"), 2)),
    ("image", input_of("image", "BYTES", packed(b"x") + b"y")),
    ("image", input_of("image", "BYTES", packed(b"x")[:-1])),
    ("image", input_of("image", "BYTES", b"\x00\x00")),
    ("image", input_of("image", "BYTES", b"", 2**40)),
    ("image", input_of("image", "BYTES", b"", -1)),
    ("image[0]", asked(images=(b"",))),
    ("image[1]", asked(images=(png(), b"no picture"))),
    ("image[0]", asked(images=(base64.b64encode(png())[:-1] + b"!",))),
    ("sampling_parameters", input_of("sampling_parameters", "BYTES", packed(b"{"))),
    ("sampling_parameters", input_of("sampling_parameters", "BYTES", packed(b"\xff"))),
    ("sampling_parameters", input_of("sampling_parameters", "BYTES", packed(b"[" * 200_000))),
    ("sampling_parameters", input_of("sampling_parameters", "BYTES", packed(b" " * 300_000))),
    ("embedding", wanting("embedding")),
    ("outputs[0].name", wanting("")),
    ("parameters.priority", with_parameter("priority", uint64_param=1)),
    ("parameters.temperature", with_parameter("temperature", double_param=9.0)),
    ("parameters.timeout", with_parameter("timeout", int64_param=-1)),
    ("parameters.timeout", with_parameter("timeout", string_param="1")),
    ("parameters.max_tokens", with_parameter("max_tokens", int64_param=0)),
    ("parameters.max_images", with_parameter("max_images", int64_param=0)),
    ("parameters.max_images", with_parameter("max_images", int64_param=3)),
    ("image[0]", asked(images=(png(),), sampling={"max_image_pixels": 47})),
    ("image[0]", asked(images=(png(),), sampling={"max_image_bytes": len(png()) - 1})),
    ("image[1]", asked(images=(png(), png()), sampling={"max_images": 1})),
    ("request", Wire.FromString(asked().SerializeToString() + b"\x98\x06\x01")),
]  # fmt: skip


async def test_refusals_name_the_callers_field() -> None:
    async with live(max_images=2) as house, InferenceClient(house.door.address) as client:
        for field, wire in REFUSED:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.infer(wire)
            error = refused.value
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (field, error)
            (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
            assert violation.field == field, violation
            wire.id = "mine"
            (piece, *more) = await client.pieces(wire)
            if field == "stream" and wire.raw_input_contents[-1]:
                continue  # a stream may stream
            assert not more
            assert piece.error_message == error.details()
            assert piece.infer_response.id == "mine"
        assert house.service.num_inside == 0
    print(f"tried {len(REFUSED)}, held {len(REFUSED)}")


async def test_a_stream_that_repeats_its_question_is_refused() -> None:
    flags = {"stream": True, "exclude_input_in_output": False}
    async with live() as house, InferenceClient(house.door.address) as client:
        (piece,) = await client.pieces(asked(flags=flags))
    assert piece.error_message == "exclude_input_in_output: must be true where stream is"


async def test_before_it_is_open_it_is_not_ready_and_says_when_to_come_again() -> None:
    async with live(is_open=False) as house, InferenceClient(house.door.address) as client:
        channel = client.channel
        ready = channel.unary_unary(
            f"/{SERVICE}/ServerReady", None, pb.ServerReadyResponse.FromString
        )
        model = channel.unary_unary(
            f"/{SERVICE}/ModelReady", None, pb.ModelReadyResponse.FromString
        )
        index = channel.unary_unary(
            f"/{SERVICE}/RepositoryIndex", None, pb.RepositoryIndexResponse.FromString
        )
        assert not (await ready(b"")).ready
        assert not (await model(b"")).ready
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.infer(asked())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert retry_after_s(refused.value) > 0
        assert not await house.client.is_serving(SERVICE)
        house.service.open()
        (listed,) = (await index(b"")).models
        assert listed.state == "UNAVAILABLE"
        assert not (await index(pb.RepositoryIndexRequest(ready=True).SerializeToString())).models
        await house.door.announce(is_serving=True)
        (listed,) = (await index(pb.RepositoryIndexRequest(ready=True).SerializeToString())).models
        assert listed.state == "READY"
        assert (await ready(b"")).ready
        assert (await model(b"")).ready
        assert await house.client.is_serving(SERVICE)


async def test_a_full_house_says_when_to_come_again() -> None:
    async with (
        live(ScriptedEngine(num_slots=1), max_waiting=0) as house,
        InferenceClient(house.door.address) as client,
    ):
        holding = client.infer(asked("hold"))
        await until(lambda: house.engine.num_running == 1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.infer(asked())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_after_s(refused.value) > 0
        (piece,) = await client.pieces(asked())
        assert piece.error_message.startswith("too many requests are running and waiting: at most")
        holding.cancel()


@pytest.mark.parametrize("name", ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata",
                                  "ModelMetadata", "ModelConfig", "ModelInfer"])  # fmt: skip
async def test_bytes_that_are_no_message_are_refused_as_such(name: str) -> None:
    async with live() as house, InferenceClient(house.door.address) as client:
        call = client.channel.unary_unary(f"/{SERVICE}/{name}", None, None)
        for data, message in (
            (b"\x0a\x05cut", NO_MESSAGE),
            (b"\x98\x06\x01", "request: field number 99 is not known"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(data)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert refused.value.details() == message
        stream = client.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString
        )
        (piece,) = [piece async for piece in stream(iter([b"\x0a\x05cut"]))]
        assert piece.error_message == NO_MESSAGE


async def test_a_failure_inside_says_nothing_about_the_inside() -> None:
    async with live() as house, InferenceClient(house.door.address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.infer(asked("a break"))
        *_, piece = await client.pieces(asked("a break", flags={"stream": True}))
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert refused.value.details() == FAILED
    assert piece.error_message == FAILED


async def test_who_leaves_a_stream_ends_all_of_its_work() -> None:
    engine = ScriptedEngine(num_slots=4, step_s=0.002)
    num_left = 0
    async with live(engine) as house, InferenceClient(house.door.address) as client:
        for how in ("cancel", "deadline", "unary"):
            wires = [asked("hold", flags={"stream": True}, id=str(i)) for i in range(6)]
            if how == "unary":
                call: Any = client.infer(asked("hold"))
            else:
                call = client.stream(iter(wires), timeout=0.2 if how == "deadline" else None)
                await call.read()
            await until(lambda: engine.num_running == (1 if how == "unary" else 4))  # noqa: B023
            if how != "deadline":
                call.cancel()
            await until(lambda: house.service.num_inside == 0)
            num_steps = engine.num_steps
            await asyncio.sleep(0.05)
            assert (engine.num_steps, engine.num_running) == (num_steps, 0)
            num_left += 1
    print(f"left {num_left}, freed {num_left}")


async def test_half_closing_a_stream_lets_what_runs_end() -> None:
    async with (
        live(ScriptedEngine(step_s=0.01)) as house,
        InferenceClient(house.door.address) as client,
    ):
        pieces = await client.pieces(asked("a b c d", flags={"stream": True}))
    assert len(pieces) == 5


async def test_a_stream_takes_only_so_many_at_once() -> None:
    engine = ScriptedEngine(num_slots=MAX_AT_ONCE + 8)
    read: list[int] = []

    async def wires() -> AsyncIterator[Wire]:
        for i in range(MAX_AT_ONCE + 40):
            read.append(i)
            yield asked("hold", flags={"stream": True})

    async with live(engine) as house, InferenceClient(house.door.address) as client:
        call = client.stream(wires())
        await until(lambda: engine.num_running == MAX_AT_ONCE)
        await asyncio.sleep(0.1)
        assert engine.num_running == MAX_AT_ONCE
        call.cancel()
        await until(lambda: house.service.num_inside == 0)


async def test_without_that_bound_it_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""
    monkeypatch.setattr("vlserve.doors.kserve.servicer.MAX_AT_ONCE", 1000)
    engine = ScriptedEngine(num_slots=MAX_AT_ONCE + 8)
    wires = [asked("hold", flags={"stream": True}) for _ in range(MAX_AT_ONCE + 40)]
    async with live(engine) as house, InferenceClient(house.door.address) as client:
        call = client.stream(iter(wires))
        await until(lambda: engine.num_running == MAX_AT_ONCE + 8)
        call.cancel()
        await until(lambda: house.service.num_inside == 0)


async def test_spoiled_requests_are_answered_or_refused_and_never_a_fault() -> None:
    chance = random.Random(SEED)
    wire = asked("hello you", images=(png(),), sampling={"seed": 3, "stop": ["x"]}, id="i")
    wire.parameters["timeout"].int64_param = 5_000_000
    whole = wire.SerializeToString()
    codes: Counter[str] = Counter()
    async with live() as house, InferenceClient(house.door.address) as client:
        call = client.channel.unary_unary(f"/{SERVICE}/ModelInfer", None, None)
        for _ in range(NUM_SPOILED):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            try:
                await call(bytes(data))
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1
        assert house.service.num_inside == 0
    print(f"tried {NUM_SPOILED}, {dict(codes)}, seed {SEED}")
    assert set(codes) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"}, codes
    assert len(codes) > 1


async def test_a_stream_that_nobody_reads_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlserve.doors.grpc.calls.READ_GRACE_S", 0.1)
    async with live(timeout_s=1.0) as house, InferenceClient(house.door.address) as client:
        call = client.stream(iter([asked("flood", flags={"stream": True})]))
        await until(lambda: house.engine.num_steps > 3)
        await asyncio.sleep(0.5)
        num_steps = house.engine.num_steps
        await asyncio.sleep(0.2)
        assert house.engine.num_steps == num_steps  # nothing is made that nobody takes
        await until(lambda: house.service.num_inside == 0)
        call.cancel()
