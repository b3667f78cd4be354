"""What crosses the wall comes out as it went in, and nothing else comes out."""

import asyncio
import dataclasses
import os
import pickle
import random
import socket
import struct
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.asked import picture, request
from vlserve.engines.base import EngineInfo, Load
from vlserve.engines.wire import (
    Beat,
    Cancel,
    Channel,
    Count,
    Counted,
    Ended,
    Failed,
    FromWorker,
    Piece,
    Refused,
    Running,
    Start,
    Started,
    Submit,
    ToWorker,
    WireError,
)
from vlserve.errors import Code
from vlserve.timings import Timings
from vlserve.types import (
    Chunk,
    FinishReason,
    Image,
    ImageCount,
    Message,
    Request,
    Role,
    SamplingParams,
    TokenCount,
    Usage,
)

MAX_BYTES = 2**20
SEED = 4


class Ends:
    """Both ends of a channel whose one side receives `incoming`."""

    def __init__(self, incoming: Any) -> None:
        self.raw, far = socket.socketpair()
        self.near: Channel[Any] = Channel(self.raw, incoming, MAX_BYTES)
        self.far: Channel[Any] = Channel(far, incoming, MAX_BYTES)

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *raised: object) -> None:
        self.near.close()
        self.far.close()


def same(one: Any, other: Any) -> bool:
    """Equality that looks into pictures."""
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and np.array_equal(one, other))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)
        )
    return bool(one == other)


async def test_requests_cross_as_they_are() -> None:
    rng = random.Random(SEED)
    sampling = SamplingParams(
        max_tokens=7,
        temperature=0.5,
        seed=2**63 - 1,
        stop=("a", "東"),
        logit_bias={0: -1.5, 70_000: 2.0},
        stop_token_ids=(1, 2),
        repetition_penalty=1.1,
    )
    asked = [request(rng, f"r{i}", sampling=sampling) for i in range(200)]
    num_pictures = 0
    with Ends(ToWorker) as ends:
        for key, sent in enumerate(asked):
            _, got = await asyncio.gather(ends.near.send(Submit(key, sent)), ends.far.receive())
            assert isinstance(got, Submit)
            assert got.key == key
            assert same(got.request, sent)
            for message in got.request.messages:
                for each in message.pictures():
                    num_pictures += 1
                    assert not each.pixels.flags.writeable
    print(f"tried {len(asked)}, held {len(asked)}, {num_pictures} pictures, seed {SEED}")
    assert num_pictures > 100


async def test_every_message_crosses() -> None:
    info = EngineInfo("m", "native", "cpu", "float32", 1, 2, 3, 4, 5, is_batched=True)
    usage = Usage(5, 2, 3)
    timings = Timings(*(0.1 * i for i in range(9)))
    to_worker: list[ToWorker] = [
        Start("{}", "{}"),
        Count(2, Request("r", (Message(Role.USER, ("how long?",)),))),
        Cancel(3),
    ]
    from_worker: list[FromWorker] = [
        Started(info),
        Failed("ModelError", "no"),
        Running(1),
        Piece(1, Chunk("naïve 😀", (1, 2))),
        Piece(1, Chunk("", (), FinishReason.LENGTH, usage, timings=timings)),
        Ended(1),
        Counted(1, TokenCount(9, 4, (ImageCount(640, 480, 2, 1), ImageCount(3, 1, 2, 5)))),
        Refused(2, Code.INVALID_ARGUMENT, "must not", "messages", None),
        Refused(2, Code.UNAVAILABLE, "gone", None, 1.5),
        Beat(Load(1, 2, 3, 4), 0.5),
    ]
    both: list[tuple[Any, list[Any]]] = [(ToWorker, to_worker), (FromWorker, from_worker)]
    for incoming, messages in both:
        with Ends(incoming) as ends:
            await ends.near.send(*messages)
            assert [await ends.far.receive() for _ in messages] == messages


async def test_a_view_of_a_picture_crosses() -> None:
    """Pixels that do not lie in one piece, as of a mirrored picture."""
    whole = picture(random.Random(SEED))
    mirrored = Image(whole.pixels[:, ::-1], whole.sha256)
    sent = Submit(1, Request("r", (Message(Role.USER, (mirrored, "x", whole)),)))
    with Ends(ToWorker) as ends:
        _, got = await asyncio.gather(ends.near.send(sent), ends.far.receive())
    assert isinstance(got, Submit)
    assert same(got.request, sent.request)


async def test_fifty_megapixels_leave_the_loop_free(capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(SEED).integers(0, 256, (5000, 10_000, 3), np.uint8)
    sent = Submit(1, Request("r", (Message(Role.USER, (Image(pixels, "d"), "what?")),)))
    gaps_s: list[float] = []

    async def watch() -> None:
        while True:
            before_s = time.perf_counter()
            await asyncio.sleep(0)
            gaps_s.append(time.perf_counter() - before_s)

    with Ends(ToWorker) as ends:
        watching = asyncio.create_task(watch())
        begin_s = time.perf_counter()
        _, got = await asyncio.gather(ends.near.send(sent), ends.far.receive())
        took_s = time.perf_counter() - begin_s
        watching.cancel()
    with capsys.disabled():
        print(
            f"50 MP crossed in {took_s * 1000:.0f} ms,"
            f" longest gap of the loop {max(gaps_s) * 1000:.1f} ms"
        )
    assert isinstance(got, Submit)
    assert same(got.request, sent.request)
    assert len(gaps_s) > 500
    assert max(gaps_s) < took_s / 3


class Canary:
    """Unpickled, it would make a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def framed(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


async def test_what_is_no_message_is_refused(tmp_path: Any) -> None:
    canary = tmp_path / "canary"
    rng = random.Random(SEED)
    encode = msgspec.msgpack.encode
    bad = [
        framed(pickle.dumps(Canary(str(canary)))),
        framed(encode(["Piece", 1, {"text": pickle.dumps(Canary(str(canary)))}])),
        framed(encode(["Nothing", 1])),
        framed(encode(["Running", "one"])),
        framed(encode(["Piece", 1, {"text": "x", "finish_reason": "tired"}])),
        *(
            framed(encode(["Piece", 1, {"text": "x", "timings": {"queue_s": bad}}]))
            for bad in (-1.0, float("nan"), float("inf"), "long", None)
        ),
        framed(encode(["Refused", 1, "no code", "x", None, None])),
        framed(b""),
        struct.pack("!I", MAX_BYTES + 1),
        b"HTTP/1.1 200 OK\r\n\r\n",
        *(framed(rng.randbytes(rng.randint(1, 200))) for _ in range(500)),
    ]
    pixels = [["r", 3], [0, 1, 3], [2**40, 2**40, 4], [-1, 1, 3], "x"]
    for data in bad:
        with Ends(FromWorker) as ends:
            ends.raw.send(data)
            with pytest.raises(WireError):
                await ends.far.receive()
    for shape in pixels:
        with Ends(ToWorker) as ends:
            part = {"pixels": shape, "sha256": ""}
            message = {"role": "user", "content": [part]}
            ends.raw.send(framed(encode(["Submit", 1, {"id": "r", "messages": [message]}])))
            with pytest.raises(WireError):
                await ends.far.receive()
    print(f"tried {len(bad) + len(pixels)}, held {len(bad) + len(pixels)}, seed {SEED}")
    assert not canary.exists()


async def test_the_canary_sings_where_it_is_unpickled(tmp_path: Any) -> None:
    """The control of the test above."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Canary(str(canary))))  # noqa: S301  that is the point
    assert canary.exists()


async def test_half_a_message_is_the_end() -> None:
    with Ends(FromWorker) as ends:
        ends.raw.send(framed(b"x" * 100)[:50])
        ends.raw.close()
        with pytest.raises(EOFError):
            await ends.far.receive()


async def test_what_cannot_cross_is_refused_and_the_next_goes() -> None:
    with Ends(ToWorker) as ends:
        for text in ("\ud800", Image(np.zeros((2, 2, 3), np.uint16), "d")):
            wrong = Request("r", (Message(Role.USER, (text,)),))
            with pytest.raises(WireError):
                await ends.near.send(Submit(1, wrong))
        await ends.near.send(Cancel(1))
        assert await ends.far.receive() == Cancel(1)
