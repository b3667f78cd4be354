"""What one request may hold: the limits here, or less where its caller asks for less."""

from dataclasses import dataclass, field
from typing import Final

from vlserve.errors import ServeError, invalid
from vlserve.media.errors import Refused
from vlserve.settings import MIB, LimitSettings
from vlserve.types import DEFAULT_VIDEO_FRAMES, MediaBounds, VideoRef

_SETTINGS: Final = {
    "max_images": "limits.max_images",
    # No other bound of a picture's bytes is above it, wherever they come from.
    "max_image_bytes": "limits.max_message_mib",
    "max_image_pixels": "limits.max_image_pixels",
    "max_video_frames": "limits.max_video_frames",
}


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """MediaBounds with a value for each. `lowered` are those that are the request's own."""

    max_images: int
    max_image_bytes: int
    max_image_pixels: int
    max_video_frames: int
    lowered: frozenset[str] = field(default=frozenset(), compare=False, kw_only=True)

    def holder(self, bound: str) -> str:
        """What holds a bound, as a message names it: a setting, or the request itself."""
        return f"the request's own {bound}" if bound in self.lowered else _SETTINGS[bound]

    def num_frames(self, video: VideoRef) -> int:
        """How many frames a video stands for at most: what it asks for itself, else what its
        request asks for, else the default, which is no more than the limit."""
        if video.max_frames:
            return video.max_frames
        if "max_video_frames" in self.lowered:
            return self.max_video_frames
        return min(DEFAULT_VIDEO_FRAMES, self.max_video_frames)

    def refusal(self, name: str, refused: Refused) -> ServeError:
        """INVALID_ARGUMENT of what was refused in the field `name`, with what holds its bound."""
        bound = refused.bound
        holder = self.holder(bound) if bound in _SETTINGS else bound
        return invalid(name, f"{refused} ({holder})" if bound else str(refused))


def media_limits(wanted: MediaBounds, limits: LimitSettings) -> MediaLimits:
    """The smaller of what the caller wants and what the limits let.

    Raises ServeError(INVALID_ARGUMENT) naming what is wanted above its limit: who asks for more
    than there is would else be given less and not know it.
    """
    bounds = {
        "max_images": limits.max_images,
        "max_image_bytes": limits.max_message_mib * MIB,
        "max_image_pixels": limits.max_image_pixels,
        "max_video_frames": limits.max_video_frames,
    }
    lowered = set()
    for name, limit in bounds.items():
        value: int | None = getattr(wanted, name)
        if value is None:
            continue
        if value > limit:
            message = f"must be at most {limit} ({_SETTINGS[name]}), not {value}"
            message += ": a request may lower the limit and not raise it"
            raise invalid(f"media_bounds.{name}", message)
        bounds[name] = value
        lowered.add(name)
    return MediaLimits(**bounds, lowered=frozenset(lowered))
