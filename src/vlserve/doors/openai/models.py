"""`/v1/models`: what is served here."""

import time
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter

from vlserve.doors.http.errors import refusals
from vlserve.doors.openai.chat_objects import Model, ModelList
from vlserve.errors import Code, ServeError
from vlserve.service.service import Service

_REFUSALS: Final = refusals(HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INTERNAL_SERVER_ERROR)


def routes(service: Service) -> APIRouter:
    """The paths of models."""
    router = APIRouter(tags=["openai"])
    opened = int(time.time())

    def served() -> list[Model]:
        return [
            Model(id=info.model, created=opened, max_model_len=info.max_context_tokens)
            for info in service.models()
        ]

    @router.get("/v1/models", responses=_REFUSALS)
    async def models() -> ModelList:
        """The models that this server answers for. `created` is when it began to."""
        return ModelList(data=served())

    @router.get(
        "/v1/models/{model:path}",
        responses={**_REFUSALS, **refusals(HTTPStatus.NOT_FOUND)},
    )
    async def one_model(model: str) -> Model:
        """One of them."""
        for each in served():
            if each.id == model:
                return each
        raise ServeError(Code.NOT_FOUND, "is not a model that is served here", field="model")

    return router
