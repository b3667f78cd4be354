"""`/process_image`: a picture in, a description out; and many of them."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from vlserve import example
from vlserve.doors.fields import fields_named
from vlserve.doors.http.body_model import Said, Text
from vlserve.doors.http.body_route import AskingRoute, fitted, said
from vlserve.doors.http.errors import CALL_REFUSALS, ErrorDetail, body_of
from vlserve.doors.http.forms import FORM, NOT_A_FILE, form_of, media_type
from vlserve.doors.http.request_bounds import RequestBounds, media_bounds
from vlserve.doors.http.streaming import TimedAnswer, unless_gone, whole
from vlserve.errors import NO_DATA, invalid
from vlserve.service.service import Service
from vlserve.settings import LimitSettings
from vlserve.types import LEFT_TO_MODEL, ChatRequest, ImageRef, Message, Role, SamplingParams

_JSON: Final = "application/json"
_NAMES: Final = {"messages": "prompt"}
_FORM_FIELDS: Final = ("image", "prompt", "media_bounds")
_SCHEMAS: Final = "#/components/schemas"  # of those that another call has as its body


class Question(Said):
    """What to do with a picture, and what it may be."""

    prompt: Text = example.QUESTION
    media_bounds: RequestBounds | None = None


class PictureQuestion(Question):
    """A picture, and what to do with it."""

    image_data: str = Field(
        description="an encoded picture in base64, or a data: URL of it",
        json_schema_extra={"minLength": 1},
    )


class PictureQuestions(Said):
    """Pictures, each with a question of its own or the one that is for all."""

    images: list[PictureQuestion] = Field(min_length=1, fail_fast=True)


class Description(BaseModel):
    """The answer."""

    description: str


class Failure(BaseModel):
    """Why there is no answer."""

    error: ErrorDetail


class Descriptions(BaseModel):
    """For each picture, in the order in which they came, an answer or why there is none."""

    results: list[Description | Failure]


def _form_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "image": {"type": "string", "format": "binary"},
            "prompt": {"type": "string", "default": example.QUESTION},
            "media_bounds": {"$ref": f"{_SCHEMAS}/RequestBounds"},
        },
        "required": ["image"],
        "additionalProperties": False,
    }


_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {"schema": {"$ref": f"{_SCHEMAS}/PictureQuestion"}},
            FORM: {"schema": _form_schema()},
        },
    }
}


def routes(service: Service, limits: LimitSettings) -> APIRouter:
    """The paths of the REST call."""
    router = APIRouter(tags=["rest"], route_class=AskingRoute)

    @router.post(
        "/process_image",
        response_model=Description,
        responses=CALL_REFUSALS,
        openapi_extra=_BODY,
    )
    async def process_image(request: Request) -> Response:
        """Describe a picture, or answer a question about it."""
        picture, question = await _question(request)
        answer = TimedAnswer(service.chat(_asked(picture, question, limits)))
        with fields_named(_NAMES):
            chunks = await whole(request, answer)
        text = "".join(chunk.text for chunk in chunks)
        return Response(
            Description(description=text).model_dump_json(),
            headers={"server-timing": answer.timing},
            media_type=_JSON,
        )

    @router.post("/process_images", response_model=Descriptions, responses=CALL_REFUSALS)
    async def process_images(body: PictureQuestions, request: Request) -> Response:
        """The same for many pictures, each a request of its own. Where none of them is answered,
        the call ends as the first does."""
        if len(body.images) > limits.max_images:
            num = len(body.images)
            most = f"must hold at most {limits.max_images} pictures (limits.max_images), not {num}"
            raise invalid("images", most)
        results = await unless_gone(request.receive, _described(service, limits, body.images))
        errors = [result for result in results if isinstance(result, Exception)]
        if len(errors) == len(results):
            raise errors[0]
        described = Descriptions(
            results=[
                Failure(error=body_of(result).error)
                if isinstance(result, Exception)
                else Description(description=result)
                for result in results
            ]
        )
        return Response(described.model_dump_json(), media_type=_JSON)

    return router


async def _question(request: Request) -> tuple[ImageRef, Question]:
    if media_type(request.scope) == FORM:
        async with form_of(request, _FORM_FIELDS) as form:
            return await _form_question(form)
    question = await said(PictureQuestion, request)
    return _image_ref(question.image_data, "image_data"), question


async def _form_question(form: FormData) -> tuple[ImageRef, Question]:
    file = form.get("image")
    if not isinstance(file, UploadFile):
        raise invalid("image", NOT_A_FILE)
    body: dict[str, object] = {name: text for name, text in form.items() if name != "image"}
    if isinstance(bounds := body.get("media_bounds"), str) and bounds:
        body["media_bounds"] = _read(bounds)
    return ImageRef(await file.read(), field="image"), fitted(Question, body)


def _read(text: str) -> object:
    try:
        return from_json(text)
    except ValueError:
        raise invalid(
            "media_bounds", 'is not JSON: write an object, such as {"max_images": 1}'
        ) from None


def _image_ref(data: str, field: str) -> ImageRef:
    if not data:
        raise invalid(field, NO_DATA)
    return ImageRef(url=data if data.startswith("data:") else f"data:;base64,{data}", field=field)


def _asked(picture: ImageRef, question: Question, limits: LimitSettings) -> ChatRequest:
    return ChatRequest(
        (Message(Role.USER, (picture, question.prompt)),),
        SamplingParams(max_tokens=limits.default_max_tokens),
        media_bounds=media_bounds(question.media_bounds),
        left_to_model=LEFT_TO_MODEL,
    )


async def _described(
    service: Service, limits: LimitSettings, questions: Sequence[PictureQuestion]
) -> list[str | Exception]:
    """The answer to each, or what it ended with."""

    async def one(index: int, question: PictureQuestion) -> str:
        with fields_named(_NAMES, f"images[{index}]."):
            picture = _image_ref(question.image_data, "image_data")
            request = _asked(picture, question, limits)
            async with aclosing(service.chat(request)) as chunks:
                return "".join([chunk.text async for chunk in chunks])

    asking = [asyncio.create_task(one(i, question)) for i, question in enumerate(questions)]
    try:
        await asyncio.wait(asking)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    return [_outcome(task) for task in asking]


def _outcome(task: asyncio.Task[str]) -> str | Exception:
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, Exception):
        return error
    raise error
