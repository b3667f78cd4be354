"""OpenAI's API: models, chat completions, responses, uploads."""

from fastapi import APIRouter

from vlserve.doors.openai import chat, files, models, responses
from vlserve.service import Service
from vlserve.settings import LimitSettings


def routes(service: Service, limits: LimitSettings) -> APIRouter:
    """All paths of the door."""
    router = APIRouter()
    router.include_router(models.routes(service))
    router.include_router(chat.routes(service, limits))
    router.include_router(responses.routes(service, limits))
    router.include_router(files.routes(service))
    return router
