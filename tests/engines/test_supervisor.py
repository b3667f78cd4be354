"""The wall: an engine's process dies, hangs, babbles, and everybody gets what was promised."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engines.collect import answer
from tests.timed import check_only
from tests.timed import told as timed
from tests.waiting import AT_MOST_S, until
from vlserve.engines import supervisor
from vlserve.engines.base import Engine
from vlserve.engines.supervisor import MAX_TRIES, PAUSES_S, SILENCE_S, Supervisor
from vlserve.errors import Code, ServeError
from vlserve.models.errors import ModelError
from vlserve.settings import EngineSettings, ModelSettings
from vlserve.timings import Stage, Timings
from vlserve.types import Message, Request, Role, SamplingParams

ROOT = Path(__file__).parents[2]
TOLD_S = 2.0
MAX_RUNNING = 2
QUICK_S = 1.0  # of silence, where the real bound is not what is tried


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process finds the tests."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")


def asked(text: str = "hello", words: int = 0) -> Request:
    content = (" ".join(["word"] * words),) if words else ()
    sampling = SamplingParams(max_tokens=4000)
    return Request("r", (Message(Role.USER, (*content, text)),), sampling)


def troubled(name: str = "", max_running: int = MAX_RUNNING, **options: Any) -> Supervisor:
    return Supervisor(
        ModelSettings(name=name),
        EngineSettings(kind="echo", max_running=max_running),
        module="tests.engines.troubled",
        **options,
    )


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Supervisor]:
    engine = troubled(**options)
    await engine.start()
    try:
        yield engine
    finally:
        pid = engine.pid
        await engine.close()
        assert not is_there(pid)


def is_there(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # dead, and not yet asked after


async def begun(engine: Engine, num_running: int) -> None:
    await until(lambda: engine.load().num_running == num_running)


def told(outcome: object, code: Code) -> bool:
    is_told = isinstance(outcome, ServeError) and outcome.code is code
    return is_told and (code is not Code.UNAVAILABLE or outcome.retry_after_s is not None)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("number", "bound_s"), [(signal.SIGKILL, TOLD_S), (signal.SIGSTOP, SILENCE_S + TOLD_S)]
)
async def test_who_had_a_part_is_told_and_who_waited_is_answered(
    number: signal.Signals, bound_s: float
) -> None:
    async with running() as engine:
        alone = [(await answer(engine, asked(f"late {i}"))).text for i in range(6)]
        streams = [engine.generate(asked(words=1000)) for _ in range(MAX_RUNNING)]
        for stream in streams:
            await anext(stream)
        waiting = [asyncio.create_task(answer(engine, asked(f"late {i}"))) for i in range(6)]
        await asyncio.sleep(0.1)
        assert engine.load().num_waiting == 6
        first, struck_s = engine.pid, time.monotonic()
        os.kill(first, number)

        async def read(stream: Any) -> object:
            try:
                async for _ in stream:
                    pass
            except ServeError as error:
                return error
            return None

        outcomes = await asyncio.gather(*map(read, streams))
        told_s = time.monotonic() - struck_s
        assert all(told(outcome, Code.UNAVAILABLE) for outcome in outcomes)
        assert told_s < bound_s
        assert [each.text for each in await asyncio.gather(*waiting)] == alone
        assert engine.pid != first
        assert not is_there(first)
        print(f"{number.name}: told after {told_s:.2f} s, {len(alone)} answered afterwards")


async def test_who_is_asked_again_has_waited_all_the_while() -> None:
    async with running(max_running=1) as engine:
        stream = engine.generate(asked(words=1000))
        await anext(stream)

        async def timings() -> Timings:
            return timed([chunk async for chunk in engine.generate(asked("late"))])[1]

        waiting = asyncio.create_task(timings())
        came_s = time.monotonic()
        await asyncio.sleep(0.2)
        os.kill(engine.pid, signal.SIGKILL)
        assert told(await until_told(stream), Code.UNAVAILABLE)
        late = await waiting
        took_s = time.monotonic() - came_s
    print(f"{late.queue_s:.2f} s in the queue of {late.total_s:.2f} s, from outside {took_s:.2f} s")
    # Most of it went into the start of the next process, which knows nothing of it.
    check_only(late, Stage.QUEUE, 0.2 + (late.total_s - 0.2) / 2)
    assert late.total_s <= took_s


async def test_a_frozen_process_is_not_noticed_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: SIGSTOP closes no socket."""
    monkeypatch.setattr(supervisor, "SILENCE_S", 3600.0)
    async with running() as engine:
        stream = engine.generate(asked(words=1000))
        await anext(stream)
        os.kill(engine.pid, signal.SIGSTOP)
        reading = asyncio.create_task(until_told(stream))
        await asyncio.sleep(QUICK_S + TOLD_S)
        assert not reading.done()
        os.kill(engine.pid, signal.SIGKILL)
        assert told(await reading, Code.UNAVAILABLE)


async def until_told(stream: Any) -> ServeError | None:
    try:
        async for _ in stream:
            pass
    except ServeError as error:
        return error
    return None


async def test_a_hung_loop_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SILENCE_S", QUICK_S)
    async with running() as engine:
        stream = engine.generate(asked(words=1000))
        await anext(stream)
        begin_s = time.monotonic()
        hanging = asyncio.create_task(until_told(engine.generate(asked("hang"))))
        assert told(await until_told(stream), Code.UNAVAILABLE)
        assert time.monotonic() - begin_s < QUICK_S + TOLD_S
        await until(lambda: engine.load().num_running == 0)
        hanging.cancel()
        assert (await answer(engine, asked())).text == "user said: hello"


async def test_a_step_that_never_ends_is_ended() -> None:
    async with running(longest_step_s=0.5) as engine:
        first = engine.pid
        sticking = asyncio.create_task(until_told(engine.generate(asked("stick"))))
        assert told(await sticking, Code.INTERNAL)  # it began twice, and stuck each time
        assert engine.pid != first
        assert (await answer(engine, asked())).text == "user said: hello"


async def test_a_process_that_babbles_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as engine:
        first = engine.pid
        assert told(await until_told(engine.generate(asked("babble"))), Code.INTERNAL)
        await until(lambda: engine.pid != first)
        assert (await answer(engine, asked())).text == "user said: hello"
    assert "no message" in caplog.text
    assert "hello" not in caplog.text


@pytest.mark.parametrize("how", ["die", "end"])
async def test_a_request_that_kills_is_tried_twice_and_who_waits_is_answered(how: str) -> None:
    async with running(max_running=1) as engine:
        killer = asyncio.create_task(until_told(engine.generate(asked(how))))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(answer(engine, asked(f"w{i}"))) for i in range(3)]
        assert told(await killer, Code.INTERNAL)
        assert [each.text for each in await asyncio.gather(*waiting)] == [
            f"user said: w{i}" for i in range(3)
        ]
        assert engine.load().num_waiting == 0


async def test_a_request_that_kills_before_it_begins_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_S", (0.0, 0.05, 0.1, 0.2))
    async with running() as engine:
        killer = asyncio.create_task(until_told(engine.generate(asked("perish"))))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(answer(engine, asked(f"w{i}"))) for i in range(6)]
        assert told(await killer, Code.INTERNAL)
        assert [each.text for each in await asyncio.gather(*waiting)] == [
            f"user said: w{i}" for i in range(6)
        ]


async def test_without_care_it_takes_all_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""
    monkeypatch.setattr(supervisor, "PAUSES_S", (0.0, 0.05, 0.1, 0.2))
    monkeypatch.setattr(supervisor, "CAREFUL_DEATHS", 100)
    async with running() as engine:
        requests = [asked("perish"), *(asked(f"w{i}") for i in range(6))]
        outcomes = await asyncio.gather(*(until_told(engine.generate(each)) for each in requests))
        assert all(told(outcome, Code.UNAVAILABLE) for outcome in outcomes)


async def test_its_own_failure_fails_it_alone() -> None:
    async with running() as engine:
        first = engine.pid
        beside = asyncio.create_task(answer(engine, asked("beside", words=50)))
        broken = await until_told(engine.generate(asked("break")))
        assert told(broken, Code.INTERNAL)
        assert "secret" not in str(broken)
        assert (await beside).text.endswith("beside")
        assert engine.pid == first


async def test_who_leaves_at_once_leaves_nothing() -> None:
    async with running() as engine:
        for _ in range(50):
            leaving = asyncio.create_task(answer(engine, asked(words=1000)))
            await asyncio.sleep(0)
            leaving.cancel()
        assert (await answer(engine, asked())).text == "user said: hello"
        await until(lambda: engine.load().num_free_slots == MAX_RUNNING)
        assert engine.load().num_waiting == 0


async def test_a_slow_reader_stops_nobody() -> None:
    async with running() as engine:
        slow = engine.generate(asked("slow", words=100))
        first = await anext(slow)
        for i in range(3):
            assert (await answer(engine, asked(f"{i}"))).text == f"user said: {i}"
        await asyncio.sleep(2)  # by now its whole answer lies here
        begin_s = time.monotonic()
        rest = [chunk.text async for chunk in slow]
        assert time.monotonic() - begin_s < 0.5
        assert (first.text + "".join(rest)).endswith("slow")


async def test_who_leaves_is_not_sent_again() -> None:
    async with running(max_running=1) as engine:
        stream = engine.generate(asked(words=1000))
        await anext(stream)
        leaving = asyncio.create_task(answer(engine, asked("leaves")))
        staying = asyncio.create_task(answer(engine, asked("stays")))
        await asyncio.sleep(0.05)
        os.kill(engine.pid, signal.SIGKILL)
        assert told(await until_told(stream), Code.UNAVAILABLE)
        leaving.cancel()
        late = asyncio.create_task(answer(engine, asked("late")))  # it comes while nothing runs
        await asyncio.sleep(0)
        assert engine.load().num_waiting == 2
        assert [(await each).text for each in (staying, late)] == [
            "user said: stays",
            "user said: late",
        ]
        assert engine.load().num_steps > 2


async def test_a_crash_loop_stops_loudly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_S", (0.0, 0.05, 0.1, 0.2))
    async with running(max_running=1) as engine:
        # Each is tried twice, so that three have five lives between them and more.
        killers = [asyncio.create_task(until_told(engine.generate(asked("die")))) for _ in "123"]
        waiting = asyncio.create_task(until_told(engine.generate(asked("waits"))))
        async with asyncio.timeout(AT_MOST_S):
            await engine.ended()
        outcomes = [await killer for killer in killers]
        assert [outcome.code for outcome in outcomes if outcome] == [
            Code.INTERNAL,
            Code.INTERNAL,
            Code.UNAVAILABLE,
        ]
        assert told(await waiting, Code.UNAVAILABLE)
        assert told(await until_told(engine.generate(asked())), Code.UNAVAILABLE)
    assert "5 deaths without an answer" in caplog.text
    assert [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert len(PAUSES_S) + 1 == 5
    assert MAX_TRIES == 2


async def test_an_answer_in_between_is_no_crash_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: six deaths with an answer after each."""
    monkeypatch.setattr(supervisor, "PAUSES_S", (0.0, 0.05, 0.1, 0.2))
    async with running() as engine:
        for _ in range(6):
            os.kill(engine.pid, signal.SIGKILL)
            await engine.interrupted()
            assert (await answer(engine, asked())).text == "user said: hello"
        await asyncio.wait_for(engine.answering(), 0.1)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("unfit", ModelError, "^it is unfit$"),
        ("breaking", ServeError, "^the engine did not start: the log says why$"),
        ("doomed", ServeError, r"^the engine did not start: it is gone \(SIGSEGV\)$"),
        (
            "huge",
            ServeError,
            r"killed while it loaded the model, which the system does where memory",
        ),
    ],
)
async def test_what_fails_at_the_start_is_said(name: str, kind: type[Exception], text: str) -> None:
    engine = troubled(name=name)
    with pytest.raises(kind, match=text):
        await engine.start()
    await engine.close()
    assert not is_there(engine.pid)


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    engine = troubled()
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0.02)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await engine.close()
    assert not is_there(engine.pid)


async def test_a_frozen_process_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlserve.engines.child._END_S", 0.3)
    async with running() as engine:
        os.kill(engine.pid, signal.SIGSTOP)


async def test_signals_to_the_process_do_not_end_it() -> None:
    async with running() as engine:
        first = engine.pid
        assert os.getsid(first) == first
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(first, number)
        assert (await answer(engine, asked())).text == "user said: hello"
        assert engine.pid == first


FRONT = """
import asyncio, sys
from vlserve.engines.supervisor import Supervisor
from vlserve.settings import EngineSettings, ModelSettings

async def main():
    engine = Supervisor(ModelSettings(), EngineSettings(kind=sys.argv[1]))
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    print(engine.pid, flush=True)
    if sys.argv[2] == "started":
        await starting
        print("started", {"torch", "transformers"} & set(sys.modules), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("kind", "when"), [("echo", "started"), ("native", "started"), ("native", "starting")]
)
def test_it_ends_with_the_front(kind: str, when: str) -> None:
    """Also while it imports and loads; and the front of a native engine imports no torch."""
    front = subprocess.Popen(
        [sys.executable, "-c", FRONT, kind, when], stdout=subprocess.PIPE, text=True
    )
    assert front.stdout is not None
    pid = int(front.stdout.readline())
    if when == "started":
        assert front.stdout.readline() == "started set()\n"
    else:
        time.sleep(1)
    assert is_there(pid)
    front.kill()
    front.wait()
    front.stdout.close()
    killed_s = time.monotonic()
    while is_there(pid):
        assert time.monotonic() - killed_s < 3
        time.sleep(0.01)
    print(f"{kind}, {when}: ended {time.monotonic() - killed_s:.2f} s after the front")


async def test_a_count_is_answered_by_the_next_process() -> None:
    async with running() as engine:
        first = engine.pid
        os.kill(first, signal.SIGSTOP)
        counting = asyncio.create_task(engine.count(asked("two words")))
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        assert (await counting).prompt_tokens == 2
        assert engine.pid != first
        assert engine.load().num_waiting == 0


async def test_a_count_that_kills_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_S", (0.0, 0.05, 0.1, 0.2))
    async with running() as engine:
        killer = asyncio.create_task(engine.count(asked("perish")))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(engine.count(asked(f"w {i}"))) for i in range(3)]
        with pytest.raises(ServeError) as caught:
            await killer
        assert told(caught.value, Code.INTERNAL)
        assert [each.prompt_tokens for each in await asyncio.gather(*waiting)] == [2] * 3
