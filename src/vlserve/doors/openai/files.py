"""`/v1/files`: a picture or a video sent once, and asked about often."""

import time
from typing import Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from vlserve.doors.http.errors import CALL_REFUSALS
from vlserve.errors import Code, ServeError, invalid
from vlserve.service import Service

_FORM: Final = "multipart/form-data"
_FIELDS: Final = ("file", "purpose")
_PURPOSES: Final = ("vision", "user_data")
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            _FORM: {
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
    purpose: Literal["vision"] = "vision"
    status: Literal["processed"] = "processed"


def routes(service: Service, keep_s: float) -> APIRouter:
    """The path of uploads, which are kept for `keep_s` seconds."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/files", responses=CALL_REFUSALS, openapi_extra=_BODY)
    async def upload(request: Request) -> KeptFile:
        """Keep a picture or a video for a time."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _FORM:
            raise ServeError(Code.INVALID_ARGUMENT, f"the body must be {_FORM}")
        async with request.form(max_files=1, max_fields=1) as form:
            for name in form:
                if name not in _FIELDS:
                    raise invalid(name, "is not served here")
            if form.get("purpose", _PURPOSES[0]) not in _PURPOSES:
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
        )

    return router
