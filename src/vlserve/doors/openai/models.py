"""`/v1/models`: what is served here."""

import time
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter

from vlserve.doors.http.errors import refusals
from vlserve.doors.openai.chat_objects import Model, ModelList
from vlserve.engines.base import EngineInfo
from vlserve.service.service import Service

_REFUSALS: Final = refusals(HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INTERNAL_SERVER_ERROR)


_CAPABILITIES: Final = ("completion", "vision")  # as Ollama names them


def routes(service: Service) -> APIRouter:
    """The paths of models."""
    router = APIRouter(tags=["openai"])
    opened = int(time.time())

    def described(info: EngineInfo) -> Model:
        return Model(
            id=info.model,
            created=opened,
            max_model_len=info.max_context_tokens,
            capabilities=list(_CAPABILITIES),
        )

    @router.get("/v1/models", responses=_REFUSALS)
    async def models() -> ModelList:
        """The model that this server answers for. `created` is when it began to."""
        return ModelList(data=[described(service.info)])

    @router.get(
        "/v1/models/{model:path}",
        responses={**_REFUSALS, **refusals(HTTPStatus.NOT_FOUND)},
    )
    async def one_model(model: str) -> Model:
        """That model, by its name."""
        return described(service.find_model(model))

    return router
