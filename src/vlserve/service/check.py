"""Whether a request makes sense and keeps the limits, told from its form alone."""

from typing import Final

from vlserve.errors import invalid
from vlserve.media.bounds import MediaLimits, media_limits
from vlserve.parameters import NOT_UNICODE, is_unicode
from vlserve.settings import LimitSettings
from vlserve.types import ChatRequest, ImageRef, Message, Role, VideoRef

_PICTURES_GO: Final = "only the user's messages may hold pictures and videos"


def check(request: ChatRequest, limits: LimitSettings) -> None:
    """Whether a request makes sense and keeps the limits and its own bounds, told from its form
    alone.

    Raises ServeError(INVALID_ARGUMENT) naming the field: `messages[i].role`, `messages[i]`,
    one of `media_bounds`, or the `field` of the first picture too many.
    """
    bounds = media_limits(request.media_bounds, limits)
    messages = request.messages
    if not messages:
        raise invalid("messages", "must hold a message: send at least one of the user's")
    for i, message in enumerate(messages):
        if message.role is Role.USER and not any(message.content):
            raise invalid(f"messages[{i}]", "must hold a text or a picture")
        if not all(is_unicode(part) for part in message.content if isinstance(part, str)):
            raise invalid(f"messages[{i}]", NOT_UNICODE)
        for ref in message.pictures():
            if message.role is not Role.USER:
                raise invalid(ref.field, f"is in a message of {message.role.value}: {_PICTURES_GO}")
    _check_last(messages)
    num_images = 0
    for ref in (ref for message in messages for ref in message.pictures()):
        before, num_images = num_images, num_images + _num_images(ref, bounds)
        if num_images > bounds.max_images:
            raise invalid(ref.field, _too_many(ref, before, num_images - before, bounds))


def _check_last(messages: tuple[Message[ImageRef | VideoRef], ...]) -> None:
    """What is answered is the user's; the system may say something after it."""
    spoken = [i for i, message in enumerate(messages) if message.role is not Role.SYSTEM]
    last = spoken[-1] if spoken else len(messages) - 1
    role = messages[last].role
    if role is not Role.USER:
        raise invalid(
            f"messages[{last}].role",
            f"is '{role.value}': the last message that is not the system's must be the user's",
        )


def _num_images(ref: ImageRef | VideoRef, bounds: MediaLimits) -> int:
    if isinstance(ref, ImageRef):
        return 1
    most = bounds.max_video_frames
    if not 0 <= ref.max_frames <= most:
        holder = bounds.holder("max_video_frames")
        raise invalid(
            ref.field, f"must ask for at most {most} frames ({holder}), not {ref.max_frames}"
        )
    return bounds.num_frames(ref)


def _too_many(ref: ImageRef | VideoRef, before: int, num: int, bounds: MediaLimits) -> str:
    what = "is one picture" if isinstance(ref, ImageRef) else f"is a video of {num} frames"
    holder = bounds.holder("max_images")
    return f"{what} after {before}; a request may hold at most {bounds.max_images} ({holder})"
