"""Whether a request makes sense and keeps the limits, told from its form alone."""

from vlserve.errors import invalid
from vlserve.media.bounds import allowed
from vlserve.parameters import NOT_UNICODE, is_unicode
from vlserve.settings import LimitSettings
from vlserve.types import ChatRequest, ImageRef, Role, VideoRef


def check(request: ChatRequest, limits: LimitSettings) -> None:
    """Whether a request makes sense and keeps the limits and its own bounds, told from its form
    alone.

    Raises ServeError(INVALID_ARGUMENT) naming the field: `messages[i].role`, `messages[i]`,
    `max_tokens`, one of `media_bounds`, or the `field` of the first picture too many.
    """
    bounds = allowed(request.media_bounds, limits)
    messages = request.messages
    if not messages:
        raise invalid("messages", "must not be empty")
    for i, message in enumerate(messages):
        if message.role is Role.SYSTEM and i > 0:
            raise invalid(f"messages[{i}].role", "only the first message may be the system's")
        if not any(message.content):
            raise invalid(f"messages[{i}]", "must hold a text or a picture")
        if not all(is_unicode(part) for part in message.content if isinstance(part, str)):
            raise invalid(f"messages[{i}]", NOT_UNICODE)
        for ref in message.pictures():
            if message.role is not Role.USER:
                raise invalid(ref.field, "only the user's messages may hold pictures")
    if messages[-1].role is not Role.USER:
        raise invalid(f"messages[{len(messages) - 1}].role", "the last message must be the user's")
    num_images = 0
    for ref in (ref for message in messages for ref in message.pictures()):
        num_images += _num_images(ref, bounds.max_video_frames)
        if num_images > bounds.max_images:
            raise invalid(ref.field, f"a request may hold at most {bounds.max_images} pictures")
    if request.sampling.max_tokens > limits.max_new_tokens:
        raise invalid("max_tokens", f"must be at most {limits.max_new_tokens}")


def _num_images(ref: ImageRef | VideoRef, max_frames: int) -> int:
    if isinstance(ref, ImageRef):
        return 1
    if not 0 <= ref.max_frames <= max_frames:
        raise invalid(ref.field, f"must ask for at most {max_frames} frames")
    return ref.num_frames(max_frames)
