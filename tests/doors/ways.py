"""Every way in which a picture, or a URL that is or looks like one, gets through a door."""

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc.aio
import httpx2
from google.rpc import error_details_pb2

from tests.doors.grpc.live import detail
from tests.doors.http.live import text_part, user
from tests.doors.kserve.asked import InferenceClient, asked, outputs
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb

MAX_MESSAGE_MIB: Final = 64
PROMPT: Final = "what is this"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The text of an answer, or the field that is refused."""

    text: str = ""
    field: str = ""


class Caller:
    """Asks a house at the addresses of its doors, while its context lasts."""

    def __init__(self, http_address: str, grpc_address: str) -> None:
        self._http = httpx2.AsyncClient(
            base_url=f"http://{http_address}", trust_env=False, timeout=60
        )
        self._grpc = GrpcClient(grpc_address, MAX_MESSAGE_MIB)
        self._kserve = InferenceClient(grpc_address)

    async def __aenter__(self) -> Self:
        await self._grpc.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._http.aclose()
        await self._grpc.__aexit__(*raised)
        await self._kserve.__aexit__(*raised)

    async def post(self, path: str, **body: Any) -> Outcome:
        """`body` as httpx2 takes it: `json`, or `files` and `data`."""
        answer = await self._http.post(path, **body)
        said = answer.json()
        if answer.status_code == 400:
            return Outcome(field=said["error"]["param"] or "body")
        assert answer.status_code == 200, said
        return Outcome(json.dumps(said))

    async def chat(self, *parts: Any, **fields: Any) -> Outcome:
        """A chat completion of one turn."""
        return await self.post("/v1/chat/completions", json={"messages": [user(*parts)]} | fields)

    async def response(self, **part: Any) -> Outcome:
        """The same by /v1/responses."""
        content = [{"type": "input_text", "text": PROMPT}, part]
        return await self.post(
            "/v1/responses", json={"input": [{"role": "user", "content": content}]}
        )

    async def call(self, **fields: Any) -> Outcome:
        """A call of gRPC, `fields` those of its message."""
        try:
            answer = await self._grpc.chat(pb.VisionRequest(**fields))
        except grpc.aio.AioRpcError as error:
            return _refused(error)
        return Outcome(answer.text)

    async def part(self, **fields: Any) -> Outcome:
        """The same with a part in a turn, `fields` those of the part."""
        parts = [pb.Part(**fields), pb.Part(text=PROMPT)]
        return await self.call(messages=[pb.Message(role=pb.ROLE_USER, parts=parts)])

    async def infer(self, image: bytes) -> Outcome:
        """A picture to KServe's call."""
        try:
            answer = await self._kserve.infer(asked(PROMPT, images=(image,)))
        except grpc.aio.AioRpcError as error:
            return _refused(error)
        return Outcome(outputs(answer)["text_output"][0])

    async def kept(self, data: bytes, kind: str = "image_url") -> Outcome:
        """An upload, and a question about it."""
        answer = await self._http.post("/v1/files", files={"file": ("a", data)})
        assert answer.status_code == 200, answer.text
        return await self.chat(_referred(answer.json()["id"], kind), text_part(PROMPT))


def _refused(error: grpc.aio.AioRpcError) -> Outcome:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    return Outcome(field=violation.field)


def _referred(url: str, kind: str = "image_url") -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _data(data: bytes) -> str:
    return f"data:image/png;base64,{_text(data)}"


Way = Callable[[Caller, bytes], Awaitable[Outcome]]
UrlWay = Callable[[Caller, str], Awaitable[Outcome]]

# Of a picture's bytes.
PICTURES: Final[dict[str, Way]] = {
    "gRPC bytes": lambda to, data: to.call(image=data, prompt=PROMPT),
    "gRPC part": lambda to, data: to.part(image=data),
    "gRPC data URL": lambda to, data: to.call(image_url=_data(data), prompt=PROMPT),
    "OpenAI data URL": lambda to, data: to.chat(_referred(_data(data)), text_part(PROMPT)),
    "Responses data URL": lambda to, data: to.response(type="input_image", image_url=_data(data)),
    "REST base64": lambda to, data: to.post("/process_image", json={"image_data": _text(data)}),
    "REST data URL": lambda to, data: to.post("/process_image", json={"image_data": _data(data)}),
    "REST multipart": lambda to, data: to.post("/process_image", files={"image": ("a", data)}),
    "REST batch": lambda to, data: to.post(
        "/process_images", json={"images": [{"image_data": _text(data)}]}
    ),
    "upload": lambda to, data: to.kept(data),
    "KServe bytes": lambda to, data: to.infer(data),
    "KServe base64": lambda to, data: to.infer(base64.b64encode(data)),
}

# Of a URL that the media room is asked to follow.
FOLLOWED: Final[dict[str, UrlWay]] = {
    "OpenAI image_url": lambda to, url: to.chat(_referred(url)),
    "OpenAI video_url": lambda to, url: to.chat(_referred(url, "video_url")),
    "Responses image_url": lambda to, url: to.response(type="input_image", image_url=url),
    "gRPC image_url": lambda to, url: to.call(image_url=url, prompt=PROMPT),
    "gRPC image_url of a part": lambda to, url: to.part(image_url=url),
    "gRPC video_url": lambda to, url: to.part(video_url=url),
}


def _svg(url: str) -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'.encode()


def _playlist(url: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n".encode()


def _schema(url: str) -> dict[str, Any]:
    schema = {"$ref": url}
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


# Of a URL where none is followed, in a form, in a file, and in what names other files.
IGNORED: Final[dict[str, UrlWay]] = {
    "REST image_data": lambda to, url: to.post("/process_image", json={"image_data": url}),
    "REST batch image_data": lambda to, url: to.post(
        "/process_images", json={"images": [{"image_data": url}]}
    ),
    "multipart text in place of a file": lambda to, url: to.post(
        "/process_image", files={"image": (None, url)}
    ),
    "multipart file": lambda to, url: to.post(
        "/process_image", files={"image": ("a.url", url.encode())}
    ),
    "multipart image_url": lambda to, url: to.post(
        "/process_image", files={"image": ("a", _svg(url)), "image_url": (None, url)}
    ),
    "upload of a text": lambda to, url: to.post("/v1/files", files={"file": (None, url)}),
    "upload": lambda to, url: to.kept(url.encode()),
    "upload of a playlist": lambda to, url: to.kept(_playlist(url), "video_url"),
    "upload's reference": lambda to, url: to.chat(_referred(f"sha256:{url}")),
    "data URL": lambda to, url: to.chat(_referred(_data(url.encode()))),
    "data URL of an SVG": lambda to, url: to.chat(_referred(_data(_svg(url)))),
    "data URL of a playlist": lambda to, url: to.chat(
        _referred(_data(_playlist(url)), "video_url")
    ),
    "Responses file_id": lambda to, url: to.response(type="input_image", file_id=url),
    "gRPC bytes": lambda to, url: to.call(image=url.encode(), prompt=PROMPT),
    "gRPC video bytes": lambda to, url: to.part(video=_playlist(url)),
    "gRPC concat": lambda to, url: to.part(video=f"ffconcat version 1.0\nfile {url}\n".encode()),
    "KServe bytes": lambda to, url: to.infer(url.encode()),
    "KServe base64": lambda to, url: to.infer(base64.b64encode(url.encode())),
    "schema": lambda to, url: to.chat(text_part(PROMPT), response_format=_schema(url)),
}
# The same in a text, which is answered.
SAID: Final[dict[str, UrlWay]] = {
    "text": lambda to, url: to.chat(text_part(f"![a picture]({url})")),
}
