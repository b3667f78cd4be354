"""The page at `/`: files of this package, and what it has to know about the server.

It asks the server what any client could. Nothing on it comes from elsewhere, and its policy lets
nothing: no script, style, picture or connection but this server's own.
"""

import hashlib
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Final

from fastapi import APIRouter, Request, Response

from vlserve import example
from vlserve.models.families import DEMONSTRATION, EMBEDDED
from vlserve.settings import LimitSettings
from vlserve.types import DEFAULT_VIDEO_FRAMES

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src blob:",  # the page's own, to show a video that is not yet sent
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# By hand: what the machine's own table says differs from one to the next.
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_PAGE: Final = "index.html"


def routes(limits: LimitSettings, grpc_address: Callable[[], str]) -> APIRouter:
    """The page, its files and its facts.

    `grpc_address` gives the gRPC door's `host:port` once it listens, for the programs shown.
    """
    router = APIRouter(include_in_schema=False)
    static = resources.files("vlserve.doors.playground") / "static"
    for file in (*static.iterdir(), example.picture()):
        path = "/" if file.name == _PAGE else f"/playground/{file.name}"
        router.add_api_route(path, _File(file).answer, methods=["GET"])

    @router.get("/playground/facts")
    async def facts() -> dict[str, int | str]:
        return {
            "question": example.QUESTION,
            "max_images": limits.max_images,
            "video_frames": min(DEFAULT_VIDEO_FRAMES, limits.max_video_frames),
            "max_message_mib": limits.max_message_mib,
            "default_max_tokens": limits.default_max_tokens,
            "grpc_port": int(grpc_address().rpartition(":")[2]),
            "demonstration_model": EMBEDDED,
            "demonstration": DEMONSTRATION,
        }

    return router


class _File:
    """A file that is read once and sent again only where it has changed."""

    def __init__(self, file: Traversable) -> None:
        self._content = file.read_bytes()
        self._type = _TYPES[PurePath(file.name).suffix]
        self._tag = f'"{hashlib.sha256(self._content).hexdigest()[:16]}"'

    async def answer(self, request: Request) -> Response:
        headers = {**_HEADERS, "ETag": self._tag}
        if request.headers.get("If-None-Match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._content, media_type=self._type, headers=headers)
