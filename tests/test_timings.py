"""What takes long shows in its stage and in no other, from the hall down to the model."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from tests.asked import request as any_request
from tests.doors.grpc.live import png
from tests.engines.collect import running
from tests.engines.native.trial import empty_memory, shortened
from tests.timed import check, check_only, misattribute, told
from tests.waiting import until
from vlserve.engines.native.engine import NativeEngine
from vlserve.engines.supervisor import Supervisor
from vlserve.media import decoders
from vlserve.media.fetch import Fetcher
from vlserve.service.service import Service
from vlserve.settings import EngineSettings, LimitSettings, MediaSettings, ModelSettings
from vlserve.timings import Stage, Stopwatch, Timings
from vlserve.types import ChatRequest, Chunk, ImageRef, Message, Role, SamplingParams

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG_S = 0.5  # well above what a tiny model takes for anything on a busy machine
SEED = 7
COLOURS = itertools.count()


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now_s)
        monkeypatch.setattr("vlserve.timings.time", clock)


async def test_each_moment_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watch = Stopwatch()
    assert watch.timings() == Timings()
    trip: list[tuple[Stage | None, float]] = [
        (None, 1.0),
        (Stage.QUEUE, 2.0),
        (Stage.PREFILL, 4.0),
        (Stage.DECODE, 8.0),
        (Stage.QUEUE, 16.0),
        (Stage.DECODE, 32.0),
        (None, 64.0),
    ]
    for stage, for_s in trip:
        watch.enter(stage)
        clock.now_s += for_s
    wanted = Timings(queue_s=18.0, prefill_s=4.0, decode_s=40.0, first_token_s=7.0, total_s=127.0)
    assert watch.timings() == wanted


async def test_one_after_the_other_is_the_sum_of_each_stage() -> None:
    before, after = Timings(*range(9)), Timings(*(10.0**i for i in range(9)))
    both = before.then(after)
    for stage in Stage:
        assert both.of(stage) == before.of(stage) + after.of(stage)
    assert both.first_token_s == before.total_s + after.first_token_s
    assert both.total_s == before.total_s + after.total_s


async def test_a_part_of_a_stage_may_be_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watch = Stopwatch()
    watch.enter(Stage.MEDIA_DECODE)
    clock.now_s += 8.0
    watch.was(Stage.FETCH, 5.0)
    clock.now_s += 1.0
    assert watch.timings() == Timings(fetch_s=5.0, media_decode_s=4.0, total_s=9.0)


@pytest.mark.parametrize("bad_s", [-0.001, float("nan"), float("inf")])
async def test_what_is_no_time_is_none(bad_s: float) -> None:
    with pytest.raises(ValueError, match="encode_s is no time"):
        Timings(encode_s=bad_s)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_folder: Path) -> AsyncIterator[NativeEngine]:
    async with running(tiny_folder, max_running=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def warm_media() -> Iterator[pytest.MonkeyPatch]:
    """Decoders that a picture can tell to be slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "WORKER", "troubled")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "media"), prepend=":")
        yield patch


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hall(engine: NativeEngine, warm_media: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """The real hall and engine, warm, in one process."""
    service = Service(engine, LimitSettings(), MediaSettings(fetch_urls=True))
    service.warm()
    service.open()
    await asked(service, ImageRef(png()))
    yield service
    service.close()


def fresh() -> bytes:
    """A picture that nobody has asked about."""
    return png((*divmod(next(COLOURS), 256), 7))


def question(*parts: str | ImageRef, max_tokens: int = 3, **sampling: Any) -> ChatRequest:
    content = (*parts, "what is this?")
    return ChatRequest(
        (Message(Role.USER, content),), SamplingParams(max_tokens=max_tokens, **sampling)
    )


async def asked(service: Service, *parts: str | ImageRef, **sampling: Any) -> Timings:
    """Ask; what it took."""
    return told([chunk async for chunk in service.chat(question(*parts, **sampling))])[1]


def slowed(work: Callable[..., Any], by_s: float) -> Callable[..., Any]:
    def slow(*arguments: Any) -> Any:
        time.sleep(by_s)
        return work(*arguments)

    return slow


Patch = pytest.MonkeyPatch
Trial = Callable[[Service, NativeEngine, Patch], Awaitable[Timings]]


async def slow_prompt(hall: Service, engine: NativeEngine, patch: Patch) -> Timings:
    patch.setattr(engine.intake.adapter, "prepare", slowed(engine.intake.adapter.prepare, LONG_S))
    return await asked(hall, ImageRef(fresh()))


async def slow_tower(hall: Service, engine: NativeEngine, patch: Patch) -> Timings:
    patch.setattr(engine.intake.adapter, "encode", slowed(engine.intake.adapter.encode, LONG_S))
    return await asked(hall, ImageRef(fresh()))


async def slow_first_step(hall: Service, engine: NativeEngine, patch: Patch) -> Timings:
    run = engine._runner.run
    patch.setattr(
        engine._runner, "run", lambda plan: slowed(run, LONG_S if plan.prefills else 0)(plan)
    )
    return await asked(hall, ImageRef(fresh()))


async def long_answer(hall: Service, engine: NativeEngine, patch: Patch) -> Timings:
    patch.setattr(engine._runner, "run", slowed(engine._runner.run, LONG_S / 20))
    return await asked(hall, ImageRef(fresh()), max_tokens=22)


async def no_place(hall: Service, engine: NativeEngine, patch: Patch) -> Timings:
    patch.setattr(engine._runner, "run", slowed(engine._runner.run, LONG_S / 20))
    others = [asyncio.create_task(asked(hall, "other", max_tokens=40)) for _ in range(2)]
    await until(lambda: engine.load().num_running == 2)
    timings = await asked(hall, ImageRef(fresh()))
    for other in others:
        check(await other)
    return timings


async def no_room_for_pixels(hall: Service, engine: NativeEngine, patch: Patch) -> Timings:
    async with hall._media.budget.share(hall._media.budget.num_left) as share:
        asking = asyncio.create_task(asked(hall, ImageRef(fresh())))
        await until(lambda: bool(hall._media.budget._waiting))  # its header was read
        await asyncio.sleep(LONG_S)
        share.give_back()
        return await asking


async def slow_picture(hall: Service, engine: NativeEngine, patch: Patch) -> Timings:
    return await asked(hall, ImageRef(f"slow {LONG_S} ".encode() + fresh()))


async def slow_web(hall: Service, engine: NativeEngine, patch: Patch) -> Timings:
    async def fetch(*_: Any) -> bytes:
        await asyncio.sleep(LONG_S)
        return fresh()

    patch.setattr(Fetcher, "fetch", fetch)
    urls = (ImageRef(url=f"https://somewhere.example/{i}.png") for i in range(2))
    return await asked(hall, *urls, ImageRef(fresh()))


TRIALS: list[tuple[Stage, Trial]] = [
    (Stage.FETCH, slow_web),
    (Stage.MEDIA_DECODE, slow_picture),
    (Stage.QUEUE, no_room_for_pixels),
    (Stage.PREPROCESS, slow_prompt),
    (Stage.ENCODE, slow_tower),
    (Stage.QUEUE, no_place),
    (Stage.PREFILL, slow_first_step),
    (Stage.DECODE, long_answer),
]
NAMES = [trial.__name__ for _, trial in TRIALS]


@pytest.mark.parametrize(("stage", "trial"), TRIALS, ids=NAMES)
async def test_what_is_slow_shows_in_its_stage_alone(
    stage: Stage, trial: Trial, hall: Service, engine: NativeEngine, monkeypatch: Patch
) -> None:
    timings = await trial(hall, engine, monkeypatch)
    print(f"{trial.__name__}: {stage} {timings.of(stage):.3f} s of {timings.total_s:.3f} s")
    check_only(timings, stage, LONG_S)


@pytest.mark.parametrize(("stage", "trial"), TRIALS, ids=NAMES)
async def test_a_stage_under_another_name_is_found_out(
    stage: Stage, trial: Trial, hall: Service, engine: NativeEngine, monkeypatch: Patch
) -> None:
    """The control."""
    other = Stage.PREFILL if stage is not Stage.PREFILL else Stage.ENCODE
    misattribute(monkeypatch, stage, other)
    with pytest.raises(AssertionError):
        check_only(await trial(hall, engine, monkeypatch), stage, LONG_S)


async def test_a_second_question_about_a_picture_waits_for_no_tower(
    hall: Service, engine: NativeEngine, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(
        engine.intake.adapter, "encode", slowed(engine.intake.adapter.encode, LONG_S)
    )
    data = fresh()
    first, again = await asked(hall, ImageRef(data)), await asked(hall, ImageRef(data))
    unseen = await asked(hall, ImageRef(fresh()))
    assert min(first.encode_s, unseen.encode_s) >= LONG_S
    assert again.encode_s < LONG_S / 100, again


async def test_a_longer_answer_takes_longer_to_decode_alone(
    hall: Service, engine: NativeEngine, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(engine._runner, "run", slowed(engine._runner.run, LONG_S / 20))
    short, long = await asked(hall, "a", max_tokens=2), await asked(hall, "a", max_tokens=30)
    grown_s = {stage: long.of(stage) - short.of(stage) for stage in Stage}
    assert grown_s.pop(Stage.DECODE) >= 28 * LONG_S / 20
    assert max(grown_s.values()) < LONG_S / 2, grown_s
    one = await asked(hall, "a", max_tokens=1)
    assert one.decode_s < LONG_S / 100, one


async def test_several_answers_have_each_their_own_times(
    hall: Service, engine: NativeEngine, monkeypatch: Patch
) -> None:
    """Three for two places: one waits for another's whole answer."""
    monkeypatch.setattr(engine._runner, "run", slowed(engine._runner.run, LONG_S / 20))
    wanted = question(ImageRef(fresh()), max_tokens=40, n=3, temperature=1.0, seed=SEED)
    chunks = [chunk async for chunk in hall.chat(wanted)]
    each = [[c for c in chunks if c.index == i] for i in range(3)]
    waits_s = sorted(told(its)[1].queue_s for its in each)
    print(f"in the queue: {', '.join(f'{wait_s:.3f} s' for wait_s in waits_s)}")
    assert waits_s[2] - waits_s[1] >= LONG_S


async def test_whoever_loses_its_room_has_sane_times(tiny_folder: Path) -> None:
    async with running(tiny_folder, max_running=4, cache_mib=64) as engine:
        scheduler = shortened(empty_memory(engine))
        rng = random.Random(SEED)
        sampling = SamplingParams(max_tokens=40)

        async def one(index: int) -> tuple[Timings, Timings]:
            wanted = any_request(rng, str(index), sampling=sampling, num_images=1)
            return told([chunk async for chunk in engine.generate(wanted)])

        times = await asyncio.gather(*map(one, range(12)))
    waited = [last for first, last in times if last.queue_s > first.queue_s]
    idle_s = max(last.total_s - sum(map(last.of, Stage)) for _, last in times)
    print(f"preempted {scheduler.num_preempted}, {len(waited)} after their first token")
    assert scheduler.num_preempted
    assert waited
    assert idle_s < 0.01, "an engine's request is always in a stage"


async def test_of_a_crowd_nobody_took_longer_than_it_took(
    tiny_folder: Path, monkeypatch: Patch
) -> None:
    """Behind the wall, some with several answers, some that leave in the middle."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = EngineSettings(kind="native", max_running=3, cache_mib=16)
    engine = Supervisor(ModelSettings(path=str(tiny_folder)), settings)
    await engine.start()
    service = Service(engine, LimitSettings())
    service.open()
    rng = random.Random(SEED)
    num_left = 0
    shares: list[float] = []

    async def one(index: int) -> None:
        nonlocal num_left
        wanted = question(
            ImageRef(png((index, 0, 0))), max_tokens=rng.randint(1, 20), n=rng.randint(1, 3)
        )
        leaves_after = rng.randint(1, 3) if index % 4 == 0 else None
        chunks: list[Chunk] = []
        begin_s = time.monotonic()
        async with aclosing(service.chat(wanted)) as answer:
            async for chunk in answer:
                chunks.append(chunk)
                if len(chunks) == leaves_after:
                    break
        took_s = time.monotonic() - begin_s
        if leaves_after is not None:
            num_left += 1
            for chunk in chunks:
                check(chunk.timings or Timings())
            return
        for i in range(wanted.sampling.n):
            _, last = told([chunk for chunk in chunks if chunk.index == i])
            assert last.total_s <= took_s
            shares.append(sum(map(last.of, Stage)) / last.total_s)

    try:
        await asyncio.gather(*map(one, range(16)))
        assert service.num_inside == 0
    finally:
        service.close()
        await engine.close()
    print(f"{len(shares)} answers checked, {num_left} left, in a stage at least {min(shares):.0%}")
    assert num_left == 4
    assert len(shares) >= 12
    assert sorted(shares)[len(shares) // 2] > 0.5


async def test_a_moment_that_counts_twice_is_found_out(hall: Service, monkeypatch: Patch) -> None:
    """The control."""
    timings = Stopwatch.timings

    def twice(self: Stopwatch) -> Timings:
        self.enter(self._stage)
        self._spent_s[Stage.PREFILL] += self._spent_s[Stage.DECODE] + 1.0
        return timings(self)

    monkeypatch.setattr(Stopwatch, "timings", twice)
    with pytest.raises(AssertionError):
        await asked(hall, "a", max_tokens=5)
