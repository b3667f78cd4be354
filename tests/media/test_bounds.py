"""What a request may hold is the smaller of its own bounds and the limits."""

import base64
from dataclasses import fields, replace
from typing import Any

import pytest

from tests.media import clips
from tests.media.test_room import PNG, opened, refused, request, text
from tests.scripted import ScriptedEngine
from vlserve.errors import ServeError
from vlserve.media import sources
from vlserve.media.bounds import MediaLimits, media_limits
from vlserve.service.service import Service
from vlserve.settings import LimitSettings
from vlserve.types import ChatRequest, ImageRef, MediaBounds, VideoRef

NAMES = [bound.name for bound in fields(MediaBounds)]
LIMITS = LimitSettings(max_images=5, max_message_mib=1, max_image_pixels=90_000, max_video_frames=4)
MOST = {
    "max_images": 5,
    "max_image_bytes": 1 << 20,
    "max_image_pixels": 90_000,
    "max_video_frames": 4,
}
CLIP = clips.animation("GIF")


def bounded(*content: str | ImageRef | VideoRef, **bounds: int) -> ChatRequest:
    return replace(request(*content), media_bounds=MediaBounds(**bounds))


def test_nothing_said_leaves_the_limits() -> None:
    assert media_limits(MediaBounds(), LIMITS) == MediaLimits(*MOST.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_bound_lowers_its_limit_and_no_other(name: str) -> None:
    for value in (1, MOST[name]):
        assert media_limits(MediaBounds(**{name: value}), LIMITS) == MediaLimits(
            *(MOST | {name: value}).values()
        )


@pytest.mark.parametrize("name", NAMES)
def test_what_would_raise_a_limit_or_is_none_is_refused_by_name(name: str) -> None:
    with pytest.raises(ServeError) as above:
        media_limits(MediaBounds(**{name: MOST[name] + 1}), LIMITS)
    assert above.value.field == f"media_bounds.{name}"
    setting = "limits.max_message_mib" if name == "max_image_bytes" else f"limits.{name}"
    assert above.value.message == (
        f"must be at most {MOST[name]} ({setting}), not {MOST[name] + 1}"
        ": a request may lower the limit and not raise it"
    )
    for value in (0, -1):
        message = f"must be at least 1, not {value}"
        with pytest.raises(ServeError) as below:
            MediaBounds(**{name: value})
        assert (below.value.field, below.value.message) == (above.value.field, message)


async def refs(service: Service) -> dict[str, ImageRef]:
    """A picture as it may come; a fetched one is in test_fetch."""
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    return {
        "bytes": ImageRef(PNG),
        "data URL": ImageRef(url=url),
        "upload": ImageRef(url=(await service.upload(PNG)).reference),
    }


async def test_bytes_wherever_they_come_from() -> None:
    async with opened() as service:
        for name, ref in (await refs(service)).items():
            assert await text(service, bounded(ref, "x", max_image_bytes=len(PNG))), name
            error = await refused(service, bounded(ref, "x", max_image_bytes=len(PNG) - 1))
            assert error.field == "image"
            text_of = f"has {len(PNG)} bytes; send at most {len(PNG) - 1}"
            assert error.message == f"{text_of} (the request's own max_image_bytes)", name
        video = VideoRef(CLIP, field="clip")
        assert await text(service, bounded(video, "x", max_image_bytes=len(CLIP)))
        error = await refused(service, bounded(video, "x", max_image_bytes=len(CLIP) - 1))
        assert error.field == "clip"


async def test_pixels_of_pictures_and_frames_by_their_headers() -> None:
    engine = ScriptedEngine()
    async with opened(engine) as service:
        assert await text(service, request(ImageRef(PNG), VideoRef(CLIP), "x"))
        sizes = [image.width * image.height for image in engine.seen[0].messages[0].pictures()]
        for ref, num in ((ImageRef(PNG), sizes[0]), (VideoRef(CLIP), sizes[1])):
            assert await text(service, bounded(ref, "x", max_image_pixels=num))
            error = await refused(service, bounded(ref, "x", max_image_pixels=num - 1))
            assert error.field == ref.field
            most = f"{num} pixels; scale it to at most {num - 1}"
            assert error.message.endswith(f"{most} (the request's own max_image_pixels)")
        # A file that ends with its header is refused for what the header says, not for its end.
        error = await refused(service, bounded(ImageRef(PNG[:60]), "x", max_image_pixels=1))
        assert error.message.endswith("scale it to at most 1 (the request's own max_image_pixels)")


async def test_frames_and_pictures() -> None:
    engine = ScriptedEngine()
    async with opened(engine) as service:

        async def num_seen(*content: ImageRef | VideoRef, **bounds: Any) -> int:
            engine.seen.clear()
            await text(service, bounded(*content, "x", **bounds))
            return len(list(engine.seen[0].messages[0].pictures()))

        video = VideoRef(CLIP, field="clip")
        assert await num_seen(video) == 8
        assert await num_seen(video, max_video_frames=3) == 3
        assert await num_seen(VideoRef(CLIP, max_frames=2), video, max_video_frames=3) == 5
        # One meaning: a video's own number lowers the request's, which lowers the limit.
        above = VideoRef(CLIP, max_frames=4, field="clip")
        error = await refused(service, bounded(above, "x", max_video_frames=3))
        own = "the request's own max_video_frames"
        assert error.field == "clip"
        assert error.message == f"must ask for at most 3 frames ({own}), not 4"
        # Frames are pictures.
        assert await num_seen(ImageRef(PNG), video, max_video_frames=3, max_images=4) == 4
        for content in ((ImageRef(PNG), video), (ImageRef(PNG), ImageRef(PNG), video)):
            bounds: dict[str, Any] = {"max_video_frames": 3, "max_images": len(content) + 1}
            error = await refused(service, bounded(*content, "x", **bounds))
            assert error.field == "clip"
            number = bounds["max_images"]
            assert error.message == (
                f"is a video of 3 frames after {len(content) - 1}; a request may hold at most"
                f" {number} (the request's own max_images)"
            )


async def test_a_bound_is_one_requests_own() -> None:
    async with opened() as service:
        await refused(service, bounded(ImageRef(PNG), "x", max_image_bytes=1))
        assert await text(service, request(ImageRef(PNG), "x"))


async def test_without_the_bounds_all_of_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(
        sources, "media_limits", lambda _, limits: media_limits(MediaBounds(), limits)
    )
    async with opened() as service:
        for name, ref in (await refs(service)).items():
            assert await text(service, bounded(ref, "x", max_image_bytes=1)), name
        assert await text(service, bounded(ImageRef(PNG), "x", max_image_pixels=1))
        assert await text(service, bounded(VideoRef(CLIP), "x", max_image_pixels=1))
