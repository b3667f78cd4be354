"""A picture may kill, stall or stuff the process that decodes it, and nobody else notices."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import pictures
from tests.media.watched import children
from tests.waiting import until
from vlserve.errors import Code, ServeError
from vlserve.media import decoders, picture
from vlserve.media.decoders import Decoders, Encoded
from vlserve.media.errors import Refused
from vlserve.media.wire import TOO_MUCH_MEMORY, Bounds

KINDS = pictures.kinds()
MAX_PIXELS = 1_000_000
ROOMY = Bounds(memory_bytes=1 << 30, clock_s=20.0, processor_s=10)
NARROW = Bounds(memory_bytes=64 << 20, clock_s=1.5, processor_s=1)


@asynccontextmanager
async def running(bounds: Bounds = ROOMY, num: int = 2) -> AsyncIterator[Decoders]:
    room = Decoders(num, bounds)
    room.start()
    try:
        yield room
    finally:
        room.close()


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not as tests.media.troubled: what the package of all tests imports takes seconds.
    monkeypatch.setattr(decoders, "WORKER", "troubled")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}:{here}")


def asked(data: bytes, max_pixels: int = MAX_PIXELS) -> Encoded:
    return Encoded(data, max_pixels)


async def refusal(coming: Awaitable[object]) -> tuple[str, str]:
    """What is said, and which bound it is beyond."""
    with pytest.raises(Refused) as refused:
        await coming
    return str(refused.value), refused.value.bound


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_gone(pid: int | None) -> bool:
    return not Path(f"/proc/{pid}").exists()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def test_every_kind_comes_through_as_it_is_decoded_here() -> None:
    async with running() as room:
        for kind, data in KINDS.items():
            expected = picture.decode(data, MAX_PIXELS)
            (found,) = await room.frames(asked(data))
            assert np.array_equal(found, expected), kind
            assert not found.flags.writeable
            num_pixels = await room.num_pixels(asked(data))
            assert num_pixels == expected.shape[0] * expected.shape[1]
    print(f"kinds tried {len(KINDS)}, equal {len(KINDS)}")


async def test_many_at_once_do_not_disturb_each_other() -> None:
    names = [name for name in KINDS for _ in range(2)]
    async with running() as room:
        together = await asyncio.gather(*(room.frames(asked(KINDS[name])) for name in names))
    for name, (pixels,) in zip(names, together, strict=True):
        assert np.array_equal(pixels, picture.decode(KINDS[name], MAX_PIXELS))


async def test_pixels_are_let_go_with_the_last_who_holds_them() -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:pixels")

    large = pictures.encoded(Image.new("RGB", (1200, 1200)), "PNG")
    async with running() as room:
        await room.frames(asked(KINDS["jpeg"]))
        gc.collect()  # what tests before this one have left
        before = (mapped(), open_files())
        small = [await room.frames(asked(KINDS["jpeg"])) for _ in range(3)]
        await until(lambda: (mapped(), open_files()) == before)
        (held,) = await room.frames(asked(large, 1_440_000))
        assert held.shape == (1200, 1200, 3)
        assert mapped() == before[0] + 1
        del held
        gc.collect()
        await until(lambda: (mapped(), open_files()) == before)
        assert len(small) == 3


ENDS = ("ends the process that decodes it: encode it anew", "")
TOO_LONG = ("takes too long to decode: more than 1.5 s", "media.decode_s")
EVILS = {
    b"sleep 60": TOO_LONG,
    b"deaf 60": TOO_LONG,
    b"frozen": TOO_LONG,
    b"spin": TOO_LONG,
    b"hog 200": (f"{TOO_MUCH_MEMORY}: more than 64 MiB", "media.decode_mib"),
    b"die 11": ENDS,
    b"die 9": ENDS,
    b"exit 3": ENDS,
    b"raise": ENDS,
}


@pytest.mark.usefixtures("troubled")
async def test_what_a_picture_does_to_its_process_is_told_to_its_caller_alone() -> None:
    good = KINDS["png rgb"]
    expected = picture.decode(good, MAX_PIXELS)
    num_good = 0
    is_done = False

    async def others() -> None:
        nonlocal num_good
        while not is_done:
            (found,) = await room.frames(asked(good))
            assert np.array_equal(found, expected)
            num_good += 1

    async with running(NARROW, num=4) as room:
        await room.frames(asked(good))
        pid = room.pid
        beside = asyncio.create_task(others())
        for evil, text in EVILS.items():
            begin_s = time.monotonic()
            assert await refusal(room.frames(asked(evil))) == text, evil
            assert time.monotonic() - begin_s < 3
        is_done = True
        await beside
        assert room.pid == pid
        await until(lambda: len(children(pid)) <= 4)  # those that wait for more
    assert num_good > len(EVILS)
    print(f"evils tried {len(EVILS)}, told {len(EVILS)}; {num_good} good ones beside them")


@pytest.mark.usefixtures("troubled")
async def test_without_the_bounds_the_same_goes_through() -> None:
    """The control: what is refused above is refused by the bounds alone."""
    async with running() as room:
        for harmless in (b"sleep 2", b"hog 200"):
            assert await refusal(room.frames(asked(harmless))) == ("has done it", "")


@pytest.mark.usefixtures("troubled")
async def test_it_can_open_no_file_and_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, running() as room:
        for attempt in (b"open /etc/hostname", b"connect %d" % port):
            text = await refusal(room.frames(asked(attempt)))
            assert text == ENDS
        # The control: unconfined it does both.
        monkeypatch.setenv("UNCONFINED", "1")
        async with running() as free:
            for attempt in (b"open /etc/hostname", b"connect %d" % port):
                assert await refusal(free.frames(asked(attempt))) == ("has done it", "")


@pytest.mark.usefixtures("troubled")
async def test_a_process_that_somebody_kills_is_tried_again() -> None:
    async with running(num=1) as room:
        await room.frames(asked(KINDS["jpeg"]))
        for num_kills, text in ((1, ("has done it", "")), (2, ENDS)):
            coming = asyncio.ensure_future(refusal(room.frames(asked(b"sleep 1"))))
            for _ in range(num_kills):
                await until(lambda: children(room.pid))
                await asyncio.sleep(0.2)  # it is at work
                (pid,) = children(room.pid)
                os.kill(pid, signal.SIGKILL)
                await until(partial(is_gone, pid))
            assert await coming == text


@pytest.mark.usefixtures("troubled")
async def test_the_worker_itself_may_be_killed_at_any_time() -> None:
    async with running() as room:
        for i in range(5):
            coming = [
                asyncio.create_task(room.frames(asked(KINDS[kind]))) for kind in ("jpeg", "gif")
            ]
            await asyncio.sleep(0.02 * i)
            if room.pid is not None:
                os.kill(room.pid, signal.SIGKILL)
            for task in coming:
                assert len(await task) == 1
    print("worker killed 5 times, 10 pictures asked for, 10 decoded")


@pytest.mark.parametrize("num_killed", [decoders.MAX_LOST - 1, decoders.MAX_LOST])
async def test_a_picture_outlives_workers_that_die_under_it(
    num_killed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that made an idle process, and the next one, but not any number of them."""
    pids: list[int] = []
    async with running() as room:
        await room.frames(asked(KINDS["jpeg"]))
        tried = room._try

        async def on_a_dying_worker(*arguments: Any, **named: Any) -> Any:
            if len(pids) < num_killed:
                assert room.pid is not None
                pids.append(room.pid)
                os.kill(room.pid, signal.SIGSTOP)  # it makes no other one meanwhile
                await until(lambda: is_stopped(pids[-1]))
                for pid in (*children(room.pid), room.pid):
                    os.kill(pid, signal.SIGKILL)
            return await tried(*arguments, **named)

        monkeypatch.setattr(room, "_try", on_a_dying_worker)
        coming = room.frames(asked(KINDS["jpeg"]))
        if num_killed < decoders.MAX_LOST:
            assert len(await coming) == 1
        else:
            with pytest.raises(ServeError) as failed:
                await coming
            assert failed.value.code is Code.INTERNAL
    assert len(set(pids)) == num_killed


@pytest.mark.usefixtures("troubled")
async def test_whoever_does_not_wait_any_more_ends_it() -> None:
    async with running(num=1) as room:
        await room.frames(asked(KINDS["jpeg"]))
        coming = asyncio.create_task(room.frames(asked(b"sleep 60")))
        await asyncio.sleep(0.2)
        assert len(children(room.pid)) == 1
        coming.cancel()
        await until(lambda: not children(room.pid), within_s=1)


@pytest.mark.usefixtures("troubled")
async def test_closing_ends_all() -> None:
    async with running() as room:
        await room.frames(asked(KINDS["jpeg"]))
        coming = asyncio.create_task(room.frames(asked(b"sleep 60")))
        await until(lambda: children(room.pid))
        pids = [*children(room.pid), room.pid]
        coming.cancel()
    assert all(map(is_gone, pids))
    with pytest.raises(ServeError) as refused:
        await room.frames(asked(KINDS["jpeg"]))
    assert refused.value.code is Code.UNAVAILABLE


async def test_a_process_decodes_for_one_tenant_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoders, "MAX_USES", 5)
    seen: dict[str, set[int]] = {"one": set(), "two": set()}
    async with running(num=1) as room:
        for i in range(24):
            tenant = ("one", "two")[i % 4 // 2]
            await room.frames(Encoded(KINDS["jpeg"], MAX_PIXELS, tenant=tenant))
            await until(lambda: len(children(room.pid)) == 1)
            seen[tenant] |= set(children(room.pid))
        assert not seen["one"] & seen["two"]
        alone: set[int] = set()
        for _ in range(20):
            await room.frames(Encoded(KINDS["jpeg"], MAX_PIXELS, tenant="one"))
            alone |= set(children(room.pid))
    assert 4 <= len(alone) <= 6


async def test_a_worker_that_cannot_start_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "WORKER", "vlserve.media.no_such_module")
    async with running() as room:
        with pytest.raises(ServeError) as refused:
            await room.frames(asked(KINDS["jpeg"]))
    assert refused.value.code is Code.INTERNAL


async def test_a_large_picture_goes_over_memory_and_time() -> None:
    """Real files: 25 million pixels in a small file."""
    data = pictures.encoded(Image.new("RGB", (5000, 5000)), "PNG", compress_level=1)
    what = asked(data, 25_000_000)
    small = Bounds(memory_bytes=64 << 20, clock_s=20.0, processor_s=10)
    short = Bounds(memory_bytes=1 << 30, clock_s=0.1, processor_s=10)
    for bounds, text in (
        (small, (f"{TOO_MUCH_MEMORY}: more than 64 MiB", "media.decode_mib")),
        (short, ("takes too long to decode: more than 0.1 s", "media.decode_s")),
    ):
        async with running(bounds) as room:
            await room.frames(asked(KINDS["jpeg"]))
            assert await refusal(room.frames(what)) == text
    async with running() as room:  # the control: within wider bounds it is decoded
        (found,) = await room.frames(what)
        assert found.shape == (5000, 5000, 3)
