"""Whether it lives and whether it is ready."""

from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter
from pydantic import BaseModel

from vlserve.doors.http.errors import refusals
from vlserve.errors import Code, ServeError

_ASK_AGAIN_S = 1.0


@dataclass
class Readiness:
    """What health says. Ready means that a picture has gone through the model and been answered
    since the engine's process was started last."""

    is_serving: bool = False


class Health(BaseModel):
    """It does what it was asked about."""

    status: str


def routes(readiness: Readiness) -> APIRouter:
    """The health paths."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    async def live() -> Health:
        """The process answers."""
        return Health(status="live")

    @router.get("/health", responses=refusals(HTTPStatus.SERVICE_UNAVAILABLE))
    @router.get("/health/ready", responses=refusals(HTTPStatus.SERVICE_UNAVAILABLE))
    async def ready() -> Health:
        """A picture sent now would be answered."""
        if not readiness.is_serving:
            message = "the server is not ready"
            raise ServeError(Code.UNAVAILABLE, message, retry_after_s=_ASK_AGAIN_S)
        return Health(status="ready")

    return router
