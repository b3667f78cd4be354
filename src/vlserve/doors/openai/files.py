"""`/v1/files`: a picture or a video sent once, and asked about often."""

import time
from typing import Any, Final, Literal, get_args

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from vlserve.doors.http.errors import CALL_REFUSALS
from vlserve.doors.http.forms import FORM, media_type, refuse_unknown
from vlserve.errors import Code, ServeError, invalid
from vlserve.service import Service

_FIELDS: Final = ("file", "purpose")
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
    """An upload. Its `id` stands in the `url` of an `image_url` or a `video_url`, until
    `expires_at` or until room is wanted."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"


def routes(service: Service, keep_s: float) -> APIRouter:
    """The path of uploads, which are kept for `keep_s` seconds."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/files", responses=CALL_REFUSALS, openapi_extra=_BODY)
    async def upload(request: Request) -> KeptFile:
        """Keep a picture or a video for a time."""
        if media_type(request.scope) != FORM:
            raise ServeError(Code.INVALID_ARGUMENT, f"the body must be {FORM}")
        async with request.form(max_files=1, max_fields=1) as form:
            refuse_unknown(form, _FIELDS)
            said = form.get("purpose", _PURPOSES[0])
            purpose = next((each for each in _PURPOSES if each == said), None)
            if purpose is None:
                raise invalid("purpose", f"must be one of {', '.join(_PURPOSES)}")
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise invalid("file", "must be a file")
            data, name = await file.read(), file.filename or ""
        now = int(time.time())
        return KeptFile(
            id=await service.upload(data),
            bytes=len(data),
            created_at=now,
            expires_at=now + int(keep_s),
            filename=name,
            purpose=purpose,
        )

    return router
