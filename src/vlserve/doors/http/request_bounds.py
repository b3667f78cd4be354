"""`media_bounds` of a body: what a request may hold of pictures and videos."""

from typing import Any

from pydantic import Field

from vlserve.doors.http.body_model import Said
from vlserve.types import MediaBounds


def _told(text: str) -> Any:
    """A bound. What is below 1 is refused where every door's is."""
    return Field(None, description=text, json_schema_extra={"minimum": 1})


class RequestBounds(Said):
    """Each lowers a limit of the server for this request. What is left out leaves the limit as it
    is; what is above it is refused."""

    max_images: int | None = _told("pictures, the frames of videos among them")
    max_image_bytes: int | None = _told("bytes of each picture or video, as it is encoded")
    max_image_pixels: int | None = _told("width times height of each picture or frame")
    max_video_frames: int | None = _told("frames that the model is given of each video")


def media_bounds(said: RequestBounds | None) -> MediaBounds:
    """Raises ServeError(INVALID_ARGUMENT) naming the bound that is below 1."""
    return MediaBounds() if said is None else MediaBounds(**said.model_dump())
