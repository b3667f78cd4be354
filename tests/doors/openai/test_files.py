"""A picture sent once and asked about often, and videos, through both doors."""

import base64
import hashlib
import io
from typing import Any

import grpc
import openai
import pytest

from tests.doors.grpc.live import png
from tests.doors.http.live import House, live, text_part, user
from tests.media import clips
from tests.scripted import MODEL, ScriptedEngine
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.types import Detail

pytestmark = pytest.mark.asyncio(loop_scope="session")
SHA = hashlib.sha256(b"8x6:" + bytes([255, 0, 0]) * 48).hexdigest()
PICTURE_URL = "messages[0].content[0].image_url.url"


def named(url: str, kind: str = "image_url") -> Any:
    return {"type": kind, kind: {"url": url}}


async def asked(house: House[ScriptedEngine], *parts: Any) -> str:
    async with house.client() as client:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[user(*parts, text_part("what is this"))]
        )
    return answer.choices[0].message.content or ""


async def test_an_upload_is_asked_about_at_both_doors() -> None:
    async with live() as house, house.client() as client, house.grpc_client() as caller:
        file = await client.files.create(file=("a.png", png()), purpose="vision")
        assert file.id == f"sha256:{hashlib.sha256(png()).hexdigest()}"
        assert (file.bytes, file.filename, file.purpose) == (len(png()), "a.png", "vision")
        assert file.expires_at == file.created_at + 3600
        answers = [await asked(house, named(file.id)) for _ in range(2)]
        wire = pb.VisionRequest(image_url=file.id, prompt="what is this")
        answers.append((await caller.chat(wire)).text)
    assert answers == [f"{SHA} what is this "] * 3


async def test_an_upload_is_told_of_and_forgotten_as_the_client_does_it() -> None:
    async with live() as house, house.client() as client:
        file = await client.files.create(file=("a.png", png()), purpose="vision")
        assert await client.files.retrieve(file.id) == file
        assert await client.files.wait_for_processing(file.id) == file
        again = await client.files.create(file=("b.png", png()), purpose="user_data")
        assert (again.id, again.filename, again.purpose) == (file.id, "b.png", "user_data")
        assert (await client.files.retrieve(file.id)).filename == "b.png"
        gone = await client.files.delete(file.id)
        assert (gone.id, gone.object, gone.deleted) == (file.id, "file", True)
        for ask in (client.files.retrieve, client.files.delete):
            for name in (file.id, "file-abc", "a b:c"):
                with pytest.raises(openai.NotFoundError) as unknown:
                    await ask(name)
                assert unknown.value.param == "file_id"
                assert "it may have expired" in unknown.value.message
        with pytest.raises(openai.BadRequestError):
            await asked(house, named(file.id))


async def test_what_uploads_do_not_have_is_refused_by_name() -> None:
    """Whoever knows an id may ask about what is behind it: so nobody is told a list of them."""
    async with live() as house, house.client() as client:
        file = await client.files.create(file=("a.png", png()), purpose="vision")
        with pytest.raises(openai.APIStatusError) as listed:
            await client.files.list()
        with pytest.raises(openai.NotFoundError) as content:
            await client.files.content(file.id)
        with pytest.raises(openai.BadRequestError) as expiring:
            await client.files.create(
                file=("a.png", png()),
                purpose="vision",
                expires_after={"anchor": "created_at", "seconds": 3600},
            )
        with pytest.raises(openai.BadRequestError) as named_long:
            await client.files.create(file=("a" * 256, png()), purpose="vision")
        with pytest.raises(openai.BadRequestError) as purpose:
            await client.files.create(file=("a.png", png()), purpose="batch")
    assert (listed.value.status_code, listed.value.code) == (405, "method_not_allowed")
    assert listed.value.response.headers["allow"] == "POST"
    assert content.value.code == "not_found"
    assert expiring.value.param == "expires_after[anchor]"
    assert (named_long.value.param, purpose.value.param) == ("file", "purpose")
    print("tried 5, refused 5 by name")


async def test_a_reference_that_nobody_uploaded_is_refused_by_its_name() -> None:
    unknown = f"sha256:{'0' * 64}"
    async with live() as house, house.grpc_client() as caller:
        with pytest.raises(openai.BadRequestError) as refused:
            await asked(house, named(unknown))
        call = caller.chat(pb.VisionRequest(image_url=unknown, prompt="what is this"))
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = await call.details()
    assert refused.value.param == PICTURE_URL
    assert (details or "").startswith("image_url")


@pytest.mark.parametrize(
    ("param", "form"),
    [
        ("other", {"files": {"other": b"x"}, "data": {}}),
        ("file", {"files": {}, "data": {"purpose": "vision"}}),
        ("file", {"files": {"file": b""}, "data": {}}),
        ("purpose", {"files": {"file": png()}, "data": {"purpose": "fine-tune"}}),
        ("expires_after", {"files": {"file": png()}, "data": {"expires_after": "1"}}),
    ],
)
async def test_what_is_no_upload_is_refused_by_its_name(param: str, form: dict[str, Any]) -> None:
    parts = b""
    for name, content in form["files"].items():
        head = f'--cut\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'
        parts += head.encode() + content + b"\r\n"
    for name, text in form["data"].items():
        head = f'--cut\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts += f"{head}{text}\r\n".encode()
    kind = "multipart/form-data; boundary=cut"
    async with live() as house:
        answer = await house.post("/v1/files", parts + b"--cut--\r\n", kind)
        bare = await house.post("/v1/files", {})
    assert (answer.status, bare.status) == (400, 400)
    assert (answer.error["param"], bare.error["param"]) == (param, None)


@pytest.mark.parametrize("charset", ["undefined", "punycode", "unicode_escape"])
async def test_a_form_in_another_encoding_is_refused(charset: str) -> None:
    name = 'name="file"; filename="\\ud800.png"'
    form = f"--cut\r\nContent-Disposition: form-data; {name}\r\n\r\nx\r\n--cut--\r\n".encode()
    async with live() as house:
        kind = f"multipart/form-data; boundary=cut; charset={charset}"
        answer = await house.post("/v1/files", form, kind)
    assert (answer.status, answer.error["message"]) == (400, "a form must be in UTF-8")


async def test_a_video_gives_its_frames_at_both_doors() -> None:
    data = clips.animation("GIF")
    url = f"data:image/gif;base64,{base64.b64encode(data).decode()}"
    async with live() as house, house.grpc_client() as caller:
        answers = [await asked(house, part) for part in (named(url, "video_url"),)]
        async with house.client() as client:
            file = await client.files.create(file=io.BytesIO(data), purpose="user_data")
        assert file.purpose == "user_data"
        answers.append(await asked(house, {"type": "video_url", "video_url": file.id}))
        for part in (pb.Part(video=data), pb.Part(video_url=url)):
            parts = [part, pb.Part(text="what is this")]
            wire = pb.VisionRequest(messages=[pb.Message(role=pb.ROLE_USER, parts=parts)])
            answers.append((await caller.chat(wire)).text)
        seen = [
            [clips.number(picture.pixels) for picture in request.messages[0].pictures()]
            for request in house.engine.seen
        ]
    assert len(set(answers)) == 1
    assert seen == [seen[0]] * 4
    assert len(seen[0]) == 8
    assert seen[0] == sorted(set(seen[0]))


async def test_a_caller_may_lower_the_frames_and_not_raise_them() -> None:
    data = clips.animation("GIF")
    async with live(max_video_frames=4) as house, house.grpc_client() as caller:

        def call(part: pb.Part) -> Any:
            parts = [part, pb.Part(text="what is this")]
            message = pb.Message(role=pb.ROLE_USER, parts=parts)
            return caller.chat(pb.VisionRequest(messages=[message]))

        await call(pb.Part(video=data, max_frames=3))
        refused = call(pb.Part(video=data, max_frames=5))
        assert await refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        misplaced = call(pb.Part(image=png(), max_frames=3))
        assert await misplaced.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = await misplaced.details()
        (seen,) = house.engine.seen
    frames = list(seen.messages[0].pictures())
    assert len(frames) == 3
    assert {frame.detail for frame in frames} == {Detail.LOW}
    assert (details or "").startswith("messages[0].parts[0].max_frames")


async def test_a_video_that_is_none_is_refused_by_its_name() -> None:
    async with live() as house:
        with pytest.raises(openai.BadRequestError) as refused:
            await asked(house, named("data:video/mp4;base64,AAAA", "video_url"))
    assert refused.value.param == "messages[0].content[0].video_url.url"
