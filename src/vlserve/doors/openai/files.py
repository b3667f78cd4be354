"""`/v1/files`: a picture or a video sent once, and asked about often."""

from http import HTTPStatus
from typing import Any, Final, Literal, get_args

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from vlserve.doors.http.errors import CALL_REFUSALS, refusals
from vlserve.doors.http.forms import FORM, NOT_A_FILE, form_of, media_type
from vlserve.errors import Code, ServeError, invalid
from vlserve.service.service import Service
from vlserve.types import Upload
from vlserve.words import shown

_FIELDS: Final = ("file", "purpose")
_REFUSALS: Final = refusals(
    HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INTERNAL_SERVER_ERROR
)
Purpose = Literal["vision", "user_data"]
_PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary", "minLength": 1},
                        "purpose": {"type": "string", "enum": list(_PURPOSES)},
                    },
                    "required": ["file"],
                    "additionalProperties": False,
                }
            }
        },
    }
}


class KeptFile(BaseModel):
    """An upload. Its `id` stands in the `url` of an `image_url` or a `video_url`, and in the
    `file_id` of an `input_image`, until `expires_at` or until room is wanted."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"


class ForgottenFile(BaseModel):
    """An upload that is no longer kept."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def routes(service: Service) -> APIRouter:
    """The paths of uploads. There is no list of them: whoever knows an id may ask about what is
    behind it, so that ids are told to nobody but who uploaded."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/files", responses=CALL_REFUSALS, openapi_extra=_BODY)
    async def upload(request: Request) -> KeptFile:
        """Keep a picture or a video for a time."""
        if media_type(request.scope) != FORM:
            raise ServeError(Code.INVALID_ARGUMENT, f"the body must be sent as {FORM}")
        async with form_of(request, _FIELDS) as form:
            said = form.get("purpose", _PURPOSES[0])
            purpose = next((each for each in _PURPOSES if each == said), None)
            if purpose is None:
                raise invalid(
                    "purpose", f"must be one of {', '.join(_PURPOSES)}, not {shown(said)}"
                )
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise invalid("file", NOT_A_FILE)
            data, name = await file.read(), file.filename or ""
        return _shown(await service.upload(data, name=name, purpose=purpose))

    @router.get("/v1/files/{file_id}", responses=_REFUSALS)
    async def uploaded(file_id: str) -> KeptFile:
        """What is kept under an id, without its content."""
        return _shown(service.uploaded(file_id))

    @router.delete("/v1/files/{file_id}", responses=_REFUSALS)
    async def forget(file_id: str) -> ForgottenFile:
        """Keep an upload no longer."""
        service.forget(file_id)
        return ForgottenFile(id=file_id)

    return router


def _shown(upload: Upload) -> KeptFile:
    return KeptFile(
        id=upload.reference,
        bytes=upload.num_bytes,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        filename=upload.name,
        purpose=next(each for each in _PURPOSES if each == upload.purpose),
    )
