"""Admission, deadlines and the way out, without a door."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from tests.doors.grpc.live import png
from tests.scripted import MODEL, ScriptedEngine
from tests.waiting import until
from vlserve.engines.base import Engine
from vlserve.engines.echo import EchoEngine
from vlserve.errors import MAX_QUOTED, Code, ServeError, stopping
from vlserve.media.decoders import Decoders, Encoded
from vlserve.media.errors import Refused
from vlserve.service.check import check
from vlserve.service.queue import MIN_RETRY_S, Queue
from vlserve.service.service import Service
from vlserve.settings import EngineSettings, LimitSettings, ModelSettings
from vlserve.types import (
    MAX_SEED,
    ChatRequest,
    Chunk,
    ImageRef,
    Message,
    Request,
    Role,
    SamplingParams,
    TokenCount,
)


def request(*content: str | ImageRef, **fields: Any) -> ChatRequest:
    return ChatRequest((Message(Role.USER, content),), **fields)


OPENED: list[Service] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """What decodes for a hall ends with it."""
    yield
    while OPENED:
        OPENED.pop().close()


def opened(engine: Engine, **limits: Any) -> Service:
    service = Service(engine, LimitSettings(**limits))
    OPENED.append(service)
    service.open()
    return service


async def text(service: Service, wanted: ChatRequest, timeout_s: float | None = None) -> str:
    return "".join([chunk.text async for chunk in service.chat(wanted, timeout_s)])


async def refused(service: Service, wanted: ChatRequest, **options: Any) -> ServeError:
    with pytest.raises(ServeError) as error:
        await text(service, wanted, **options)
    return error.value


async def test_answers_and_lets_go() -> None:
    service = opened(ScriptedEngine())
    assert await text(service, request("a b")) == "a b "
    assert await text(service, request("a b", model=MODEL)) == "a b "
    assert service.num_inside == 0


async def test_another_model_is_named_beside_the_one_that_is_served() -> None:
    service = opened(ScriptedEngine())
    error = await refused(service, request("a", model="gpt-4o\n" + "x" * 1000))
    assert (error.code, error.field) == (Code.NOT_FOUND, "model")
    wanted = "gpt-4o\N{REPLACEMENT CHARACTER}" + "x" * (MAX_QUOTED - 7)
    assert error.message == (f"model '{wanted}…' is not served here; this server serves '{MODEL}'")
    assert service.find_model(MODEL) == service.info


@pytest.mark.parametrize("n", [1, 3])
async def test_begun_is_no_piece_of_an_answer(n: int) -> None:
    service = opened(EchoEngine(ModelSettings(), EngineSettings(kind="echo")))
    chunks = [chunk async for chunk in service.chat(request("a", sampling=several(n)))]
    assert all(isinstance(chunk, Chunk) and chunk.token_ids for chunk in chunks)
    assert {chunk.index for chunk in chunks} == set(range(n))


async def test_nothing_is_decoded_for_who_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(num_slots=1)
    service = opened(engine, max_waiting=0)
    async with aclosing(service.chat(request("hold"))) as holding:
        await anext(holding)

        def never(*arguments: Any) -> None:
            raise AssertionError("decoded")

        monkeypatch.setattr(Decoders, "num_pixels", never)
        error = await refused(service, request(ImageRef(png()), "x"))
        assert error.code is Code.OVERLOADED
        assert error.retry_after_s is not None
        assert error.retry_after_s >= MIN_RETRY_S
    assert service.num_inside == 0


async def test_the_earlier_deadline_holds() -> None:
    engine = ScriptedEngine(step_s=0.01)
    for service, timeout_s in ((opened(engine), 0.1), (opened(engine, timeout_s=0.1), 60.0)):
        began = asyncio.get_running_loop().time()
        error = await refused(service, request("hold"), timeout_s=timeout_s)
        assert error.code is Code.DEADLINE_EXCEEDED
        assert asyncio.get_running_loop().time() - began < 0.3
        assert service.num_inside == engine.num_running == 0


async def test_a_deadline_that_has_passed_starts_nothing() -> None:
    engine = ScriptedEngine()
    error = await refused(opened(engine), request("x"), timeout_s=-1.0)
    assert error.code is Code.DEADLINE_EXCEEDED
    assert not engine.seen


async def test_a_timeout_of_the_engine_is_not_the_callers_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def failing(*arguments: Any) -> None:
        raise TimeoutError("of the engine")

    monkeypatch.setattr(Decoders, "num_pixels", failing)
    with pytest.raises(TimeoutError, match="of the engine"):
        await text(opened(ScriptedEngine()), request(ImageRef(png()), "x"))


async def test_closing_between_pieces_lets_go_at_once() -> None:
    engine = ScriptedEngine(num_slots=1)
    service = opened(engine)
    async with aclosing(service.chat(request("hold"))) as pieces:
        await anext(pieces)
        assert (service.num_inside, engine.num_running) == (1, 1)
    assert (service.num_inside, engine.num_running) == (0, 0)


async def test_before_open_and_while_draining_nobody_comes_in() -> None:
    engine = ScriptedEngine(step_s=0.01)
    service = Service(engine, LimitSettings())
    assert (await refused(service, request("x"))).code is Code.UNAVAILABLE
    service.open()
    running = asyncio.create_task(text(service, request("a b c")))
    await until(lambda: service.num_inside == 1)
    draining = asyncio.create_task(service.drain())
    await asyncio.sleep(0)
    error = await refused(service, request("x"))
    assert (error.code, error.message) == (Code.UNAVAILABLE, stopping().message)
    assert not draining.done()
    assert await running == "a b c "
    await asyncio.wait_for(draining, 1)


def several(n: int, **sampling: Any) -> SamplingParams:
    return SamplingParams(n=n, **sampling)


async def test_several_answers_are_several_requests_with_the_next_seeds() -> None:
    engine = ScriptedEngine()
    service = opened(engine)
    wanted = request(ImageRef(png()), "a b", sampling=several(3, seed=MAX_SEED, temperature=1.0))
    chunks = [chunk async for chunk in service.chat(wanted)]
    alone = [chunk async for chunk in service.chat(request(ImageRef(png()), "a b"))]
    alone = [replace(chunk, timings=None) for chunk in alone]
    for index in range(3):
        its = [replace(c, index=0, timings=None) for c in chunks if c.index == index]
        assert its == alone
    seen = engine.seen[:3]
    assert [each.sampling.seed for each in seen] == [MAX_SEED, 0, 1]
    assert {each.sampling.n for each in seen} == {1}
    assert [each.id.rsplit("-", 1)[1] for each in seen] == ["0", "1", "2"]
    assert len({id(each.messages) for each in seen}) == 1
    # Not one after the other, but as they come.
    assert [chunk.index for chunk in chunks[:3]] != [0, 0, 0]
    assert (service.num_inside, engine.num_running) == (0, 0)


async def test_without_a_seed_each_answer_has_none() -> None:
    engine = ScriptedEngine()
    await text(opened(engine), request("a", sampling=several(2)))
    assert [each.sampling.seed for each in engine.seen] == [None, None]


async def test_leaving_several_answers_frees_everything(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = ScriptedEngine(num_slots=4)
    service = opened(engine, max_waiting=12)
    wanted = request("hold", sampling=several(6))
    num_left = 0
    for num_read in (0, 1, 2, 7, 30):
        async with aclosing(service.chat(wanted)) as pieces:
            for _ in range(num_read):
                await anext(pieces)
                assert service.num_inside == 6
        assert (service.num_inside, engine.num_running, engine.num_waiting) == (0, 0, 0)
        task = asyncio.create_task(text(service, wanted))
        await until(lambda: engine.num_running == 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (service.num_inside, engine.num_running, engine.num_waiting) == (0, 0, 0)
        num_left += 2
    with capsys.disabled():
        print(f"requests for 6 answers that were left: tried {num_left}, freed {num_left}")


async def test_the_deadline_of_several_answers_ends_all() -> None:
    engine = ScriptedEngine(step_s=0.01)
    service = opened(engine)
    error = await refused(service, request("hold", sampling=several(3)), timeout_s=0.1)
    assert error.code is Code.DEADLINE_EXCEEDED
    assert service.num_inside == engine.num_running == 0


async def test_one_answer_that_fails_ends_all_with_its_error() -> None:
    class FailingThird(ScriptedEngine):
        async def generate(self, request: Request) -> AsyncGenerator[Chunk]:
            async with aclosing(super().generate(request)) as chunks:
                async for chunk in chunks:
                    if request.id.endswith("-2"):
                        raise ServeError(Code.INTERNAL, "the request failed")
                    yield chunk

    engine = FailingThird()
    service = opened(engine)
    assert (await refused(service, request("hold", sampling=several(3)))).code is Code.INTERNAL
    assert service.num_inside == engine.num_running == 0


async def test_nobody_reads_ahead_of_a_slow_reader_of_several_answers() -> None:
    engine = ScriptedEngine()
    async with aclosing(opened(engine).chat(request("flood", sampling=several(2)))) as pieces:
        await anext(pieces)
        await asyncio.sleep(0.05)
        assert engine.num_steps < 10


async def test_several_answers_have_their_places_all_at_once_or_not_at_all() -> None:
    engine = ScriptedEngine(num_slots=2)
    service = opened(engine, max_waiting=2)
    async with aclosing(service.chat(request("hold"))) as holding:
        await anext(holding)
        error = await refused(service, request("a", sampling=several(4)))
        assert error.code is Code.OVERLOADED
        assert error.retry_after_s is not None
        assert service.num_inside == 1
        async with aclosing(service.chat(request("hold", sampling=several(3)))) as others:
            await anext(others)
            assert service.num_inside == 4
            assert (await refused(service, request("a"))).code is Code.OVERLOADED
        assert service.num_inside == 1
    error = await refused(service, request("a", sampling=several(5)))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "n")
    assert service.num_inside == 0


async def test_all_pictures_of_a_request_are_loaded_and_keep_their_places() -> None:
    engine = ScriptedEngine()
    content = [ImageRef(png((i, 0, 0)), f"p{i}") for i in range(8)]
    await text(opened(engine), request("first", *content, "last"))
    seen = engine.seen[0].messages[0].content
    assert (seen[0], seen[-1]) == ("first", "last")
    assert [p.pixels[0, 0, 0] for p in seen if not isinstance(p, str)] == list(range(8))


async def test_one_broken_picture_is_named_among_good_ones() -> None:
    content = [ImageRef(png(), "p0"), ImageRef(b"no", "p1"), ImageRef(png(), "p2")]
    error = await refused(opened(ScriptedEngine()), request(*content, "x"))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "p1")


USER, SYSTEM, ASSISTANT = Role.USER, Role.SYSTEM, Role.ASSISTANT
PICTURE = ImageRef(b"", "the picture")


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ([(USER, [])], "messages[0]"),
        ([(USER, [""])], "messages[0]"),
        ([(SYSTEM, ["a"])], "messages[0].role"),
        ([(USER, ["a"]), (ASSISTANT, ["b"])], "messages[1].role"),
        ([(USER, ["a"]), (ASSISTANT, ["b"]), (SYSTEM, ["c"])], "messages[1].role"),
        ([(USER, ["a"]), (USER, [""])], "messages[1]"),
        ([(SYSTEM, ["a", PICTURE]), (USER, ["b"])], "the picture"),
        ([(USER, ["a"]), (ASSISTANT, [PICTURE]), (USER, ["c"])], "the picture"),
        ([(USER, [PICTURE] * 33)], "the picture"),
        ([(SYSTEM, ["a"]), (USER, [PICTURE, "<image>\ud83d"])], "messages[1]"),
        ([(USER, ["a", "\udc00"]), (ASSISTANT, ["b"]), (USER, ["c"])], "messages[0]"),
    ],
)
def test_a_request_that_makes_no_sense(messages: list[Any], field: str) -> None:
    turns = tuple(Message(role, tuple(content)) for role, content in messages)
    with pytest.raises(ServeError) as error:
        check(ChatRequest(turns), LimitSettings())
    assert (error.value.code, error.value.field) == (Code.INVALID_ARGUMENT, field)


@pytest.mark.parametrize(
    "messages",
    [
        [(SYSTEM, ["a"]), (SYSTEM, ["b"]), (USER, ["c"])],
        [(USER, ["a"]), (SYSTEM, ["b"]), (USER, ["c"])],
        [(USER, ["a"]), (SYSTEM, ["b"])],
        [(SYSTEM, []), (USER, ["c"])],
        [(USER, ["a"]), (ASSISTANT, []), (USER, ["c"])],
        [(USER, ["a"]), (ASSISTANT, [""]), (SYSTEM, [""]), (USER, ["c"])],
    ],
)
def test_turns_that_mean_nothing_are_taken(messages: list[Any]) -> None:
    turns = tuple(Message(role, tuple(content)) for role, content in messages)
    check(ChatRequest(turns), LimitSettings())


def test_limits_of_a_request() -> None:
    limits = LimitSettings(max_new_tokens=10, max_images=1)
    check(request(PICTURE, "a", sampling=SamplingParams(max_tokens=10)), limits)
    check(ChatRequest((Message(SYSTEM, ("a",)), Message(USER, ("b",)))), LimitSettings())


async def test_who_is_refused_together_is_told_different_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Places come free every 2 s: the first refused is told about 2 s, the second 4 s."""
    now_s = 1000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    queue = Queue(num_running=1, num_waiting=1, longest_s=60.0)
    first, second = queue.permit(), queue.permit()
    first.__enter__()
    second.__enter__()
    now_s += 2.0
    first.__exit__(None, None, None)
    with queue.permit():
        told = []
        for _ in range(3):
            with pytest.raises(ServeError) as refusal, queue.permit():
                pass
            told.append(refusal.value.retry_after_s)
        assert told == pytest.approx([2.5, 5.0, 7.5])
        for _ in range(100):
            with pytest.raises(ServeError) as refusal, queue.permit():
                pass
            assert refusal.value.retry_after_s is not None
            assert 2.5 <= refusal.value.retry_after_s <= 4 * 2 * 2.5
        now_s += 30.0
        with pytest.raises(ServeError) as refusal, queue.permit():
            pass
        assert refusal.value.retry_after_s == pytest.approx(2.5)
    second.__exit__(None, None, None)
    await queue.empty()


async def test_nobody_waits_for_the_other_pictures_of_a_refused_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[Encoded] = []

    async def slow(self: Decoders, what: Encoded) -> int:
        if what.data == b"bad":
            raise Refused("is no picture")
        await asyncio.sleep(0.05)
        decoded.append(what)
        return 1

    monkeypatch.setattr(Decoders, "num_pixels", slow)
    service = opened(ScriptedEngine(), max_images=40)
    pictures = [ImageRef(b"bad", "bad"), *(ImageRef(b"x", str(i)) for i in range(39))]
    assert (await refused(service, request(*pictures, "x"))).field == "bad"
    await asyncio.sleep(0.3)
    assert not decoded
    service.close()


async def test_a_count_takes_the_same_way_in_and_no_slot() -> None:
    engine = ScriptedEngine(num_slots=1)
    service = opened(engine, max_waiting=1)
    wanted = request(ImageRef(png()), "a b")
    async with aclosing(service.chat(request("hold"))) as holding:
        await anext(holding)
        count = await service.count(wanted)
        assert (count.prompt_tokens, count.image_tokens, count.text_tokens) == (12, 10, 2)
        assert [(each.width, each.height) for each in count.images] == [(8, 6)]
        async with aclosing(service.chat(request("hold"))) as waiting:
            reading = asyncio.ensure_future(anext(waiting))
            await until(lambda: service.num_inside == 2)
            with pytest.raises(ServeError) as caught:
                await service.count(wanted)
            assert caught.value.code is Code.OVERLOADED
            assert caught.value.retry_after_s is not None
            reading.cancel()
            await asyncio.wait([reading])
    assert (service.num_inside, engine.num_running) == (0, 0)
    assert [each.messages[0].content[-1] for each in engine.seen] == ["hold", "hold"]


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("image", request(ImageRef(b"no picture"), "x")),
        ("image", request(ImageRef(png()), ImageRef(png()), "x")),
        ("model", request("x", model="other")),
    ],
)
async def test_what_is_refused_is_not_counted(field: str, wanted: ChatRequest) -> None:
    service = opened(ScriptedEngine(), max_images=1)
    with pytest.raises(ServeError) as caught:
        await service.count(wanted)
    assert caught.value.field == field == (await refused(service, wanted)).field
    assert service.num_inside == 0


async def test_a_count_has_a_deadline() -> None:
    class Slow(ScriptedEngine):
        async def count(self, request: Request) -> TokenCount:
            await asyncio.sleep(60)
            return await super().count(request)

    for timeout_s in (0.05, -1.0):
        service = opened(Slow())
        with pytest.raises(ServeError) as caught:
            await service.count(request("x"), timeout_s)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert service.num_inside == 0
