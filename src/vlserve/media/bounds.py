"""What one request may hold: the limits here, or less where its caller asks for less."""

from dataclasses import dataclass

from vlserve.errors import invalid
from vlserve.settings import MIB, LimitSettings
from vlserve.types import MediaBounds


@dataclass(frozen=True, slots=True)
class Allowed:
    """MediaBounds with a value for each."""

    max_images: int
    max_image_bytes: int
    max_image_pixels: int
    max_video_frames: int


def allowed(wanted: MediaBounds, limits: LimitSettings) -> Allowed:
    """The smaller of what the caller wants and what the limits let.

    Raises ServeError(INVALID_ARGUMENT) naming what is wanted above its limit: who asks for more
    than there is would else be given less and not know it.
    """
    bounds = {
        "max_images": limits.max_images,
        # No other bound of a picture's bytes is above it, wherever they come from.
        "max_image_bytes": limits.max_message_mib * MIB,
        "max_image_pixels": limits.max_image_pixels,
        "max_video_frames": limits.max_video_frames,
    }
    for name, limit in bounds.items():
        value: int | None = getattr(wanted, name)
        if value is None:
            continue
        if value > limit:
            message = f"must be at most {limit}: a request may lower the limit and not raise it"
            raise invalid(f"media_bounds.{name}", message)
        bounds[name] = value
    return Allowed(**bounds)
