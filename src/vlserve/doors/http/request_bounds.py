"""`media_bounds` of a body: what a request may hold of pictures and videos."""

from vlserve.doors.http.body_model import Said
from vlserve.doors.http.parameters import given_parameters, with_parameters
from vlserve.types import MEDIA_BOUNDS, MediaBounds


@with_parameters(MEDIA_BOUNDS)
class RequestBounds(Said):
    """Each lowers a limit of the server for this request. What is left out leaves the limit as it
    is; what is above it is refused."""


def media_bounds(said: RequestBounds | None) -> MediaBounds:
    """Raises ServeError(INVALID_ARGUMENT) naming the bound that is below 1."""
    return MediaBounds() if said is None else MediaBounds(**given_parameters(said, MEDIA_BOUNDS))
