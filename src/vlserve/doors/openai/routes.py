"""OpenAI's API: models, chat completions, responses, uploads."""

from fastapi import APIRouter

from vlserve.doors.openai import chat_routes as chat
from vlserve.doors.openai import files, models
from vlserve.doors.openai import responses_routes as responses
from vlserve.service.service import Service
from vlserve.settings import LimitSettings


def routes(service: Service, limits: LimitSettings) -> APIRouter:
    """All paths of the door."""
    routers = (
        models.routes(service),
        chat.routes(service, limits),
        responses.routes(service, limits),
        files.routes(service),
    )
    return APIRouter(routes=[route for router in routers for route in router.routes])
