"""The app of all HTTP doors, made from their routers."""

from collections.abc import Sequence
from importlib import metadata
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp

from vlserve.doors.http import health
from vlserve.doors.http.bodies import BoundedBodies
from vlserve.doors.http.body_route import AskingRoute
from vlserve.doors.http.docs_page import HEADERS, page
from vlserve.doors.http.errors import handle_errors
from vlserve.doors.http.health import Readiness
from vlserve.doors.http.origins import AllowedOrigins
from vlserve.doors.http.outermost import Outermost
from vlserve.doors.http.streaming import CallerGone
from vlserve.doors.http.tidy import TidyRequests
from vlserve.service.service import Service
from vlserve.settings import HttpSettings, LimitSettings

_CALLER_GONE: Final = 499


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The document, without the status 422, which FastAPI adds and this server never gives."""
        document = super().openapi()
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document


async def _unread(_: Request, error: Exception) -> Response:
    """What is sent to nobody."""
    del error
    return Response(status_code=_CALLER_GONE)


def application(
    service: Service,
    routers: Sequence[APIRouter],
    readiness: Readiness,
    limits: LimitSettings,
    settings: HttpSettings,
) -> ASGIApp:
    """An app that serves `routers`, health, `/openapi.json` and `/docs`; to pages of other origins
    than its own where `settings` allow them."""
    app = _Application(
        title="vlserve",
        version=metadata.version("vlserve"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    handle_errors(app)
    app.add_exception_handler(CallerGone, _unread)
    for router in (*routers, health.routes(readiness)):
        app.router.routes.extend(router.routes)
    asking = {route.path for route in app.routes if isinstance(route, AskingRoute)}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()), headers=HEADERS)

    app.add_middleware(BoundedBodies, service=service, limits=limits, asking=asking)
    app.add_middleware(TidyRequests)
    # Outside the app, so that its last resort, the 500, passes through as well.
    if settings.origins:
        return Outermost(AllowedOrigins(app, settings.origins))
    return Outermost(app)
