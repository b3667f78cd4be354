"""One table of parameters and limits, asked at every door: the same answer or the same refusal."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image

from tests import pictures
from tests.doors.grpc.live import detail, png, retry_after_s
from tests.doors.http.live import Answer, House, data_url, live, picture_part, text_part, user
from tests.media import clips
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.openai import chat_convert as convert
from vlserve.types import MAX_GUIDE_CHARACTERS, MediaBounds

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT, REST = "/v1/chat/completions", "/process_image"
PROMPT = "hello you"
LIMITS: dict[str, Any] = {"max_images": 2, "max_image_pixels": 100_000, "max_message_mib": 1}
# Of each bound of a request the limit here, and a clip that has more frames than that.
MOST = {
    "max_images": 2,
    "max_image_bytes": 1 << 20,
    "max_image_pixels": 100_000,
    "max_video_frames": 32,
}
CLIP = clips.animation("GIF")
REFUSED = "refused"


@dataclass(frozen=True)
class Case:
    """A request in the words of each door. `fields` are their names for what is refused."""

    name: str
    grpc: pb.VisionRequest
    openai: dict[str, Any]
    rest: dict[str, Any] | None = None
    fields: tuple[str, ...] = field(default=())


def sampling(name: str, value: Any, *, is_refused: bool = False) -> Case:
    """A parameter of the same name and the same form at both doors."""
    wire = pb.Sampling(**{name: value})
    said = {str(key): bias for key, bias in value.items()} if name == "logit_bias" else value
    shown = f"{value}"[:24]
    return Case(
        f"{name} {shown}",
        pb.VisionRequest(prompt=PROMPT, sampling=wire),
        {"messages": [user(PROMPT)], name: said},
        fields=(f"sampling.{name}", name) if is_refused else (),
    )


def guided(name: str, wire: pb.Sampling, said: dict[str, Any], *fields: str) -> Case:
    return Case(
        name,
        pb.VisionRequest(prompt=PROMPT, sampling=wire),
        {"messages": [user(PROMPT)]} | said,
        fields=fields,
    )


def schema_form(schema: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return {"response_format": form}


def structured(**said: Any) -> dict[str, Any]:
    return {"structured_outputs": said}


def pictured(name: str, data: bytes, *, is_refused: bool = True) -> Case:
    fields = ("image", "messages[0].content[0].image_url.url", "image_data")
    return Case(
        name,
        pb.VisionRequest(image=data, prompt=PROMPT),
        {"messages": [user(picture_part(data), text_part(PROMPT))]},
        {"image_data": base64.b64encode(data).decode(), "prompt": PROMPT},
        fields if is_refused else (),
    )


def bounded(name: str, bounds: dict[str, int], fields: tuple[str, ...] = ()) -> Case:
    """A picture of 8 x 6 under bounds of its request. `fields` are "image" for the picture's own
    name, or the name of a bound."""
    names = ("image", "messages[0].content[0].image_url.url", "image_data")
    said = {"media_bounds": bounds}
    return Case(
        f"{name}: {bounds}",
        pb.VisionRequest(image=png(), prompt=PROMPT, media_bounds=pb.MediaBounds(**bounds)),
        {"messages": [user(picture_part(), text_part(PROMPT))]} | said,
        {"image_data": base64.b64encode(png()).decode(), "prompt": PROMPT} | said,
        names if fields == ("image",) else fields * 3,
    )


def bounded_turn(name: str, bounds: dict[str, int], *parts: bytes, fields: tuple[str, ...]) -> Case:
    """Several pictures and the clip, which REST does not have."""
    said = [picture_part(part) if part != CLIP else video_part() for part in parts]
    wire = [pb.Part(image=part) if part != CLIP else pb.Part(video=CLIP) for part in parts]
    message = pb.Message(role=pb.ROLE_USER, parts=[*wire, pb.Part(text=PROMPT)])
    return Case(
        f"{name}: {bounds}",
        pb.VisionRequest(messages=[message], media_bounds=pb.MediaBounds(**bounds)),
        {"messages": [user(*said, text_part(PROMPT))], "media_bounds": bounds},
        fields=fields,
    )


def video_part() -> Any:
    url = f"data:image/gif;base64,{base64.b64encode(CLIP).decode()}"
    return {"type": "video_url", "video_url": {"url": url}}


def turns(name: str, *said: tuple[str, list[Any]], fields: tuple[str, ...] = ()) -> Case:
    """A conversation: texts, and bytes for pictures."""
    roles = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}
    wire = [
        pb.Message(
            role=roles[role],
            parts=[pb.Part(text=p) if isinstance(p, str) else pb.Part(image=p) for p in parts],
        )
        for role, parts in said
    ]
    messages = [
        {
            "role": role,
            "content": [text_part(p) if isinstance(p, str) else picture_part(p) for p in parts],
        }
        for role, parts in said
    ]
    return Case(name, pb.VisionRequest(messages=wire), {"messages": messages}, fields=fields)


MANY = dict.fromkeys(range(1024), 1.0)
LONG = "x" * MAX_GUIDE_CHARACTERS
CASES = [
    *(
        sampling(name, value)
        for name, values in {
            "max_tokens": (1, 4096, 4097, 2**31),
            "temperature": (0.0, 0.5, 2.0),
            "top_p": (0.5, 1.0),
            "top_k": (0, 5, 2**32 - 1),
            "seed": (0, 2**63 - 1),
            "stop": (["x"], ["x"] * 16, ["x" * 256]),
            "min_p": (0.0, 0.5, 1.0),
            "presence_penalty": (-2.0, 0.5, 2.0),
            "frequency_penalty": (-2.0, 0.5, 2.0),
            "repetition_penalty": (0.5, 2.0),
            "logit_bias": ({7: -100.0}, MANY),
            "min_tokens": (0, 200),
            "stop_token_ids": ([4, 5], [2**32 - 1] * 64),
            "n": (1, 2, 16),
        }.items()
        for value in values
    ),
    *(
        sampling(name, value, is_refused=True)
        for name, values in {
            "max_tokens": (0,),
            "temperature": (-0.5, 2.5, float("nan"), float("inf")),
            "top_p": (0.0, -1.0, 1.5, float("nan")),
            "seed": (2**63, 2**64 - 1),
            "stop": ([""], ["x"] * 17, ["x" * 257]),
            "min_p": (-0.5, 1.5, float("nan")),
            "presence_penalty": (-2.5, 2.5, float("nan")),
            "frequency_penalty": (-2.5, 2.5, float("inf")),
            "repetition_penalty": (0.0, 2.5, float("nan")),
            "logit_bias": ({7: 101.0}, {7: -101.0}, MANY | {1024: 1.0}),
            "min_tokens": (201,),
            "stop_token_ids": ([1] * 65,),
            "n": (0, 17),
        }.items()
        for value in values
    ),
    guided("logprobs 0", pb.Sampling(logprobs=0), {"logprobs": True}),
    guided("logprobs 20", pb.Sampling(logprobs=20), {"logprobs": True, "top_logprobs": 20}),
    guided(
        "logprobs 21", pb.Sampling(logprobs=21), {"logprobs": True, "top_logprobs": 21},
        "sampling.logprobs", "top_logprobs",
    ),
    guided(
        "json_object", pb.Sampling(json_object=True), {"response_format": {"type": "json_object"}}
    ),
    guided("json_schema", pb.Sampling(json_schema='{"type": "object"}'),
           schema_form({"type": "object"})),
    guided(
        "json_schema too long", pb.Sampling(json_schema=json.dumps({"title": LONG})),
        schema_form({"title": LONG}), "sampling.json_schema", "response_format",
    ),
    guided("regex", pb.Sampling(regex="a+"), structured(regex="a+")),
    guided(
        "regex empty", pb.Sampling(regex=""), structured(regex=""),
    ),
    guided(
        "regex too long", pb.Sampling(regex=LONG + "x"), structured(regex=LONG + "x"),
        "sampling.regex", "structured_outputs.regex",
    ),
    guided(
        "regex that the engine refuses", pb.Sampling(regex=REFUSED), structured(regex=REFUSED),
        "sampling.regex", "structured_outputs.regex",
    ),
    guided("choice", pb.Sampling(choice=pb.Choice(texts=["a", "b"])),
           structured(choice=["a", "b"])),
    guided(
        "choice of none", pb.Sampling(choice=pb.Choice()), structured(choice=[]),
    ),
    guided(
        "choice empty", pb.Sampling(choice=pb.Choice(texts=[""])), structured(choice=[""]),
        "sampling.choice", "structured_outputs.choice",
    ),
    pictured("a picture", png(), is_refused=False),
    pictured("another picture", pictures.kinds()["jpeg progressive"], is_refused=False),
    pictured("no picture", b"no picture"),
    pictured("a picture cut short", pictures.kinds()["jpeg progressive"][:300]),
    pictured("too many pixels", png(size=(1000, 101))),
    pictured("a format that is not taken", pictures.encoded(
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)), "PPM")),
    Case(
        "a picture of low detail",
        pb.VisionRequest(image=png(), prompt=PROMPT, detail=pb.DETAIL_LOW),
        {"messages": [user(picture_part(detail="low"), text_part(PROMPT))]},
    ),
    turns("turns", ("system", ["a"]), ("user", [png(), "b"]), ("assistant", ["c"]),
          ("user", ["d", png((0, 0, 9))])),
    turns("too many pictures", ("user", [png(), png(), png()]),
          fields=("messages[0].parts[2].image", "messages[0].content[2].image_url.url")),
    turns("nothing said", ("user", [""]), fields=("messages[0]", "messages[0]")),
    turns("the assistant last", ("user", ["a"]), ("assistant", ["b"]),
          fields=("messages[1].role", "messages[1].role")),
    turns("the system in the middle", ("user", ["a"]), ("system", ["b"]), ("user", ["c"])),
    turns("the system twice", ("system", ["a"]), ("system", ["b"]), ("user", ["c"])),
    turns("the system last", ("user", ["a"]), ("system", ["b"])),
    turns("the system alone", ("system", ["a"]), fields=("messages[0].role", "messages[0].role")),
    turns("the system silent", ("system", [""]), ("user", ["c"])),
    turns("an empty answer", ("user", ["a"]), ("assistant", [""]), ("user", ["c"])),
    turns("a picture of the assistant", ("user", ["a"]), ("assistant", [png()]), ("user", ["c"]),
          fields=("messages[1].parts[0].image", "messages[1].content[0].image_url.url")),
    turns("too many parts", *[("user", ["a"] * 100)] * 21, fields=("messages", "messages")),
    bounded("all bounds as high as the limits", MOST),
    bounded("nothing bounded", {}),
    *(
        bounded("within", {name: value})
        for name, value in {
            "max_images": 1, "max_image_bytes": len(png()), "max_image_pixels": 48,
            "max_video_frames": 1,
        }.items()
    ),
    *(
        bounded("above the bound", {name: value}, ("image",))
        for name, value in {
            "max_image_bytes": len(png()) - 1, "max_image_pixels": 47,
        }.items()
    ),
    *(bounded("no bound", {name: 0}, (f"media_bounds.{name}",)) for name in MOST),
    *(
        bounded("beyond the limit", {name: limit + 1}, (f"media_bounds.{name}",))
        for name, limit in MOST.items()
    ),
    bounded("far beyond the limit", {"max_image_bytes": 2**32 - 1},
            ("media_bounds.max_image_bytes",)),
    bounded_turn("two pictures", {"max_images": 2}, png(), png((0, 0, 9)), fields=()),
    bounded_turn(
        "a picture too many", {"max_images": 1}, png(), png(),
        fields=("messages[0].parts[1].image", "messages[0].content[1].image_url.url"),
    ),
    bounded_turn("frames as many as fit", {"max_video_frames": 2}, CLIP, fields=()),
    bounded_turn("a picture and a frame", {"max_video_frames": 1}, png(), CLIP, fields=()),
    bounded_turn(
        "more frames than pictures", {"max_video_frames": 2, "max_images": 1}, CLIP,
        fields=("messages[0].parts[0].video", "messages[0].content[0].video_url.url"),
    ),
    bounded_turn(
        "frames of too many pixels", {"max_video_frames": 1, "max_image_pixels": 47}, CLIP,
        fields=("messages[0].parts[0].video", "messages[0].content[0].video_url.url"),
    ),
    bounded_turn(
        "a video of too many bytes",
        {"max_video_frames": 1, "max_image_bytes": len(CLIP) - 1}, CLIP,
        fields=("messages[0].parts[0].video", "messages[0].content[0].video_url.url"),
    ),
    turns("a picture that is no picture", ("user", [b"x", "a"]),
          fields=("messages[0].parts[0].image", "messages[0].content[0].image_url.url")),
]  # fmt: skip


async def over_grpc(house: House[Any], wire: pb.VisionRequest) -> tuple[str, str]:
    """The texts of the answers, or of the refusal its field and the rest."""
    async with house.grpc_client() as client:
        try:
            answer = await client.chat(wire)
        except grpc.aio.AioRpcError as error:
            (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
            return violation.field, violation.description
        return "", "|".join([answer.text, *(other.text for other in answer.others)])


def outcome(answer: Answer) -> tuple[str, str]:
    """The same of an answer over HTTP."""
    if answer.status == 200:
        said = answer.json
        if "description" in said:
            return "", said["description"]
        return "", "|".join(choice["message"]["content"] for choice in said["choices"])
    assert answer.status == 400, answer
    param = answer.error["param"]
    assert answer.error["message"].startswith(f"{param}: ")
    return param, answer.error["message"].removeprefix(f"{param}: ")


def asked(house: House[ScriptedEngine]) -> list[Any]:
    """What the engine was given, and forgets now."""
    seen = [
        (
            request.sampling,
            [
                (message.role, [p if isinstance(p, str) else p.key for p in message.content])
                for message in request.messages
            ],
        )
        for request in house.engine.seen
    ]
    house.engine.seen.clear()
    return seen


async def held(house: House[ScriptedEngine], case: Case) -> int:
    """How many doors were asked, each of which gave the same answer or the same refusal."""
    outcomes = [await over_grpc(house, case.grpc)]
    given = [asked(house)]
    # What is left out is as each door's own clients expect it: here both ask for the same length.
    outcomes.append(outcome(await house.post(CHAT, {"max_tokens": 200} | case.openai)))
    given.append(asked(house))
    if case.rest is not None:
        outcomes.append(outcome(await house.post(REST, case.rest)))
        given.append(asked(house))
    assert [name for name, _ in outcomes] == list(case.fields or [""] * len(outcomes)), case.name
    assert len({text for _, text in outcomes}) == 1, (case.name, outcomes)
    assert all(each == given[0] for each in given), case.name
    assert bool(given[0]) is not bool(case.fields), case.name
    return len(outcomes)


async def test_every_door_gives_the_same_answer_or_the_same_refusal() -> None:
    async with live(ScriptedEngine(num_slots=16), **LIMITS) as house:
        num_calls = sum([await held(house, case) for case in CASES])
    print(f"tried {len(CASES)} in {num_calls} calls, held {len(CASES)}")
    assert len(CASES) >= 60


async def test_a_door_that_drops_bounds_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(convert, "media_bounds", lambda _: MediaBounds())
    wrong = []
    async with live(ScriptedEngine(num_slots=16), **LIMITS) as house:
        for case in CASES:
            try:
                await held(house, case)
            except AssertionError:
                wrong.append(case)
    print(f"a door without bounds: tried {len(CASES)}, differs in {len(wrong)}")
    assert wrong
    assert all(case.grpc.HasField("media_bounds") for case in wrong)


async def codes(house: House[Any], prompt: str, model: str = "") -> tuple[Any, Answer, Answer]:
    """How a request ends at each door."""
    async with house.grpc_client() as client:
        call = client.chat(pb.VisionRequest(image=png(), prompt=prompt, model=model))
        code = await call.code()
        error = None if code is grpc.StatusCode.OK else (await _failed(call))
    said = {"messages": [user(picture_part(), text_part(prompt))], "model": model}
    chat = await house.post(CHAT, said)
    rest = await house.post(REST, {"image_data": data_url(), "prompt": prompt})
    return error, chat, rest


async def _failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value


async def test_every_door_is_full_late_closed_and_broken_alike() -> None:
    async with live(ScriptedEngine(num_slots=1), max_waiting=0, timeout_s=0.3) as house:
        error, chat, rest = await codes(house, "hold")
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert chat.status == rest.status == 504
        async with house.grpc_client() as client:
            holding = client.chat(pb.VisionRequest(prompt="hold"))
            await until(lambda: house.service.num_inside == 1)
            error, chat, rest = await codes(house, "hello")
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert retry_after_s(error) > 0
            assert chat.status == rest.status == 429
            for answer in (chat, rest):
                assert int(answer.headers["retry-after-ms"]) > 0
                assert answer.error["message"] == error.details()
            holding.cancel()
        await until(lambda: house.service.num_inside == 0)
        error, chat, rest = await codes(house, "a break")
        assert error.code() is grpc.StatusCode.INTERNAL
        assert chat.status == rest.status == 500
        assert chat.error["message"] == rest.error["message"] == error.details()
        error, chat, _ = await codes(house, "hello", model="other")
        assert (error.code(), chat.status) == (grpc.StatusCode.NOT_FOUND, 404)
        assert chat.error["message"] == error.details()
        await house.service.drain()
        error, chat, rest = await codes(house, "hello")
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert chat.status == rest.status == 503
        assert chat.error["message"] == rest.error["message"] == error.details()
        assert all("retry-after" in answer.headers for answer in (chat, rest))


async def test_every_door_takes_as_much() -> None:
    async with live(**LIMITS) as house, house.grpc_client() as client:
        for length, is_taken in ((1 << 19, True), (1 << 20, False)):
            prompt = "x" * length
            call = client.chat(pb.VisionRequest(prompt=prompt))
            code = await call.code()
            chat = await house.post(CHAT, {"messages": [user(prompt)]})
            rest = await house.post(REST, {"image_data": data_url(), "prompt": prompt})
            exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
            assert code is (grpc.StatusCode.OK if is_taken else exhausted)
            assert chat.status == rest.status == (200 if is_taken else 413)
