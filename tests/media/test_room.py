"""From what a request refers to, to what the engine is given, through the hall."""

import asyncio
import base64
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import pictures
from tests.media import clips
from tests.media.watched import children
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.errors import NO_DATA, Code, ServeError
from vlserve.media import decoders
from vlserve.media.uploads import UNKNOWN
from vlserve.service.service import Service
from vlserve.settings import LimitSettings, MediaSettings
from vlserve.types import ChatRequest, ImageRef, Message, Role, VideoRef

PNG = pictures.kinds()["png rgb"]
DIGEST = pictures.digest(PNG)


@asynccontextmanager
async def opened(
    engine: ScriptedEngine | None = None, media: MediaSettings | None = None, **limits: Any
) -> AsyncIterator[Service]:
    service = Service(engine or ScriptedEngine(), LimitSettings(**limits), media)
    service.open()
    try:
        yield service
    finally:
        service.close()


def request(*content: str | ImageRef | VideoRef, tenant: str = "") -> ChatRequest:
    return ChatRequest((Message(Role.USER, content),), tenant=tenant)


async def text(service: Service, wanted: ChatRequest) -> str:
    return "".join([chunk.text async for chunk in service.chat(wanted)])


async def refused(service: Service, wanted: ChatRequest) -> ServeError:
    with pytest.raises(ServeError) as error:
        await text(service, wanted)
    assert error.value.code is Code.INVALID_ARGUMENT
    return error.value


async def test_a_picture_comes_as_bytes_as_a_data_url_and_as_an_upload() -> None:
    async with opened() as service:
        reference = (await service.upload(PNG, "key")).reference
        assert reference == f"sha256:{hashlib.sha256(PNG).hexdigest()}"
        url = "data:image/png;base64," + base64.b64encode(PNG).decode()
        for ref in (ImageRef(PNG), ImageRef(url=url), ImageRef(url=reference)):
            assert await text(service, request(ref, "x", tenant="key")) == f"{DIGEST} x "


async def test_an_upload_is_its_tenants_own() -> None:
    media = MediaSettings(keep_uploads_s=0.2, uploads_mib=1)
    async with opened(media=media) as service:
        reference = (await service.upload(PNG, "key")).reference
        ref = ImageRef(url=reference, field="messages[0].content[0]")
        for tenant in ("other", ""):
            error = await refused(service, request(ref, "x", tenant=tenant))
            assert error.field == "messages[0].content[0]"
        assert await text(service, request(ref, "x", tenant="key"))
        await asyncio.sleep(0.25)
        error = await refused(service, request(ref, "x", tenant="key"))
        assert error.message == UNKNOWN
        for data in (b"", bytes(2 << 20)):
            with pytest.raises(ServeError) as too_much:
                await service.upload(data, "key")
            assert too_much.value.field == "file"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (ImageRef(b""), NO_DATA),
        (ImageRef(url="data:,"), NO_DATA),
        (ImageRef(url="data:;base64,!"), "is not base64: '!' at 0"),
        (
            ImageRef(url="file:///etc/passwd"),
            "has the scheme 'file': must be a data:, sha256:, http: or https: URL",
        ),
        (ImageRef(url="sha256:0"), UNKNOWN),
        (ImageRef(b"nothing"), "is not a picture in one of PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF"),
        (VideoRef(PNG[:50]), "is a video that is damaged or cut short"),
        (
            VideoRef(PNG, max_frames=33),
            "must ask for at most 32 frames (limits.max_video_frames), not 33",
        ),
        (
            VideoRef(PNG, max_frames=-1),
            "must ask for at most 32 frames (limits.max_video_frames), not -1",
        ),
    ],
)
async def test_what_cannot_be_had_is_refused_by_name(ref: Any, message: str) -> None:
    async with opened() as service:
        error = await refused(service, request("a", ref, "b"))
    assert (error.field, error.message) == (ref.field, message)


async def test_a_video_is_some_of_its_frames_in_order() -> None:
    engine = ScriptedEngine()
    async with opened(engine) as service:
        clip = clips.video(num_frames=30)
        answer = await text(service, request(ImageRef(PNG), VideoRef(clip, max_frames=4), "x"))
        assert answer.endswith("x ")
        images = list(engine.seen[0].messages[0].pictures())
        assert len(images) == 5
        assert images[0].sha256 == DIGEST
        assert [clips.number(image.pixels) for image in images[1:]] == [3, 11, 18, 26]


@pytest.mark.parametrize(
    ("max_frames", "limits", "num_frames"),
    [(0, {}, 8), (16, {}, 16), (32, {}, 32), (0, {"max_video_frames": 5}, 5)],
)
async def test_a_video_gives_what_is_asked_for_or_the_default(
    max_frames: int, limits: dict[str, Any], num_frames: int
) -> None:
    engine = ScriptedEngine()
    clip = VideoRef(clips.video(num_frames=40), max_frames=max_frames)
    async with opened(engine, **limits) as service:
        await text(service, request(clip, "x"))
    assert len(list(engine.seen[0].messages[0].pictures())) == num_frames


async def test_frames_count_as_pictures() -> None:
    video = VideoRef(clips.video(num_frames=30), field="clip")
    async with opened(max_images=10) as service:
        assert await text(service, request(video, ImageRef(PNG), ImageRef(PNG), "x"))
        error = await refused(service, request(ImageRef(PNG), video, *[ImageRef(PNG)] * 2, "x"))
        assert (error.field, error.message) == (
            "image",
            "is one picture after 10; a request may hold at most 10 (limits.max_images)",
        )
        error = await refused(service, request(video, video, "x"))
        assert error.field == "clip"


async def test_the_first_picture_does_not_wait_where_it_was_warmed() -> None:
    seconds = {}
    for is_warm in (False, True):
        async with opened() as service:
            if is_warm:
                service.warm()
                await asyncio.sleep(3)
            begin_s = time.monotonic()
            await text(service, request(ImageRef(PNG), "x"))
            seconds[is_warm] = time.monotonic() - begin_s
    print(f"first picture after {seconds[True] * 1e3:.0f} ms, not warmed {seconds[False]:.2f} s")
    assert seconds[True] < seconds[False] / 2


async def test_a_large_picture_and_many_broken_ones_hold_up_nobody() -> None:
    """9000 x 9000 and 200 that are cut, while others are answered."""
    large = pictures.encoded(Image.new("RGB", (9000, 9000), (9, 8, 7)), "PNG")
    photo = pictures.encoded(Image.fromarray(pictures.scene((640, 480))), "JPEG", quality=90)
    cut = [photo[: 200 + i * 50] for i in range(200)]
    engine = ScriptedEngine(num_slots=8, step_s=0.02)
    longest_s = 0.0
    gaps: list[float] = []

    async def watch() -> None:
        # Of the processor, which is the loop's own doing: others may want the cores as well.
        nonlocal longest_s
        while True:
            begin_s = time.thread_time()
            await asyncio.sleep(0.005)
            longest_s = max(longest_s, time.thread_time() - begin_s)

    async def stream(service: Service) -> None:
        last_s = time.monotonic()
        async with aclosing(service.chat(request("word " * 60))) as chunks:
            async for _ in chunks:
                gaps.append(time.monotonic() - last_s)
                last_s = time.monotonic()

    async with opened(engine, max_image_pixels=85_000_000, max_waiting=400) as service:
        assert await text(service, request(ImageRef(photo), "x"))
        watching = asyncio.create_task(watch())
        streams = [asyncio.create_task(stream(service)) for _ in range(6)]
        await asyncio.sleep(0.1)
        gaps.clear()
        whole = asyncio.create_task(text(service, request(ImageRef(large), "x")))
        found = await asyncio.gather(
            *(text(service, request(ImageRef(data), "x")) for data in cut), return_exceptions=True
        )
        answer = await whole
        watching.cancel()
        await asyncio.gather(*streams)
    num_refused = sum(
        isinstance(error, ServeError) and error.code is Code.INVALID_ARGUMENT for error in found
    )
    print(
        f"cut tried {len(cut)}, refused {num_refused}; loop at work for {longest_s * 1e3:.0f} ms,"
        f" longest gap of 6 streams {max(gaps) * 1e3:.0f} ms at a step of 20 ms"
    )
    assert num_refused == len(cut)
    assert answer.endswith("x ")
    assert longest_s < 0.25


async def test_an_answer_comes_though_the_worker_is_killed() -> None:
    async with opened() as service:
        assert await text(service, request(ImageRef(PNG), "x"))
        pid = service._media._decoders.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        for tenant in ("", *"abcdef"):  # those that were made go on, others are made anew
            answer = await text(service, request(ImageRef(PNG), "x", tenant=tenant))
            assert answer == f"{DIGEST} x "
        assert service._media._decoders.pid != pid


def crossings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what is written from now on for processes that decode to read."""
    lengths: list[int] = []
    write = os.write

    def counted(fd: int, data: memoryview) -> int:
        num_bytes = write(fd, data)
        if Path(f"/proc/self/fd/{fd}").readlink().name.startswith("memfd:encoded"):
            lengths.append(num_bytes)
        return num_bytes

    monkeypatch.setattr("vlserve.media.files.os.write", counted)
    return lengths


def num_read(service: Service) -> int:
    """Bytes that the one process that decodes has read, by the kernel's count."""
    (pid,) = children(service._media._decoders.pid)
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.parametrize(("max_kept", "times"), [(decoders.MAX_KEPT, 1), (0, 2)])
async def test_the_bytes_of_each_picture_cross_once(
    max_kept: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control keeps none between its header and its pixels."""
    monkeypatch.setattr(decoders, "MAX_KEPT", max_kept)
    photo = pictures.encoded(Image.frombytes("RGB", (1600, 1200), os.urandom(5_760_000)), "PNG")
    files = [PNG, photo, *pictures.kinds().values()][:12]
    clip = clips.video(num_frames=30)
    num_bytes = sum(map(len, files)) + len(clip)
    assert num_bytes > 5_000_000
    async with opened(media=MediaSettings(workers=1), max_images=20) as service:
        await text(service, request(ImageRef(PNG), "x"))
        lengths = crossings(monkeypatch)
        before = num_read(service)
        await text(service, request(*map(ImageRef, files), VideoRef(clip), "x"))
        read = num_read(service) - before
    print(f"{num_bytes} bytes: {sum(lengths)} written, {read} read")
    assert sum(lengths) == times * num_bytes
    assert read == num_bytes


async def test_what_waits_for_its_share_is_written_once_and_let_go_with_its_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def open_files() -> int:
        return sum(
            each.readlink().name.startswith("memfd:encoded")
            for each in Path("/proc/self/fd").iterdir()
            if each.is_symlink()
        )

    async with opened() as service:
        await text(service, request(ImageRef(PNG), "x"))
        assert open_files() == 0
        lengths = crossings(monkeypatch)
        budget = service._media.budget
        async with budget.share(budget.num_left) as share:
            asking = [
                asyncio.create_task(text(service, request(ImageRef(PNG), "x"))) for _ in range(3)
            ]
            await until(lambda: len(budget._waiting) == 3)
            assert open_files() == 3
            asking[0].cancel()
            await asyncio.wait(asking[:1])
            assert open_files() == 2
            share.give_back()
            assert await asyncio.gather(*asking[1:]) == [f"{DIGEST} x "] * 2
        assert open_files() == 0
    assert lengths == [len(PNG)] * 3


async def test_a_request_that_is_refused_keeps_no_file() -> None:
    async with opened() as service:
        kept = service._media._decoders._kept
        error = await refused(service, request(ImageRef(PNG), ImageRef(b"bad", "bad"), "x"))
        assert error.field == "bad"
        assert not kept._kept
        assert kept._num_bytes == 0
