"""A guide that cannot be followed is refused in time and by name, and disturbs nobody."""

import asyncio
import ctypes
import faulthandler
import json
import logging
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.asked import request
from tests.engines.collect import answer, chunks_of, running
from tests.guides import bad_guides
from tests.tiny_model import tiny_tokenizer
from vlserve.engines.native.text import grammar, guide_worker
from vlserve.engines.native.text.guide_check import GuideCheck
from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.errors import Code, ServeError
from vlserve.types import Guide, GuideKind, Request, SamplingParams

PRIME = grammar.json_grammar('{"type": "integer", "multipleOf": 1000003}')
ENOUGH_S = 2.0


@pytest.fixture
async def check() -> AsyncIterator[GuideCheck]:
    check = GuideCheck(Vocabulary(tiny_tokenizer().backend_tokenizer, 340, frozenset([2])))
    yield check
    await check.close()


def asked(guide: Guide | None, max_tokens: int = 20) -> Request:
    params = SamplingParams(max_tokens=max_tokens, guide=guide)
    return request(random.Random(3), "r", num_images=0, sampling=params)


async def refused(check: GuideCheck, source: str) -> ServeError:
    with pytest.raises(ServeError) as caught:
        await check.check(source)
    return caught.value


async def test_bad_guides_are_refused_by_name_while_a_stream_runs(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guides = bad_guides()
    steady = asked(None, max_tokens=300)
    gaps: list[float] = []
    streamed: list[list[int]] = []
    is_over = asyncio.Event()

    async def stream() -> None:
        while not is_over.is_set():
            token_ids: list[int] = []
            before = time.perf_counter()
            async for chunk in chunks_of(engine, steady):
                now = time.perf_counter()
                gaps.append(now - before)
                before = now
                token_ids += chunk.token_ids
            streamed.append(token_ids)

    async with running(tiny_folder) as engine:
        alone = (await answer(engine, steady)).token_ids
        # The first of them finds the worker warm, as in a server that has been ready for a moment.
        await answer(engine, asked(Guide(GuideKind.REGEX, "a")))
        beside = asyncio.create_task(stream())
        slowest = (0.0, "")
        for name, guide in guides.items():
            begin = time.perf_counter()
            with pytest.raises(ServeError) as caught:
                await answer(engine, asked(guide))
            slowest = max(slowest, (time.perf_counter() - begin, name))
            error = caught.value
            assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "guide"), name
            assert len(error.message) < 300, name
        is_over.set()
        await beside
    num_same = sum(token_ids == alone for token_ids in streamed)
    with capsys.disabled():
        print(
            f"bad guides: tried {len(guides)}, refused {len(guides)},"
            f" the slowest in {slowest[0]:.2f} s ({slowest[1]});"
            f" streams beside them {len(streamed)}, the same {num_same},"
            f" longest gap {max(gaps) * 1e3:.0f} ms"
        )
    assert len(guides) >= 20
    assert slowest[0] < ENOUGH_S
    assert num_same == len(streamed) > 0


def tried_in_a_fork(source: str, max_s: float, max_bytes: int) -> int:
    """How a process ended that tried a grammar within bounds: 0, or less where it was killed."""
    vocabulary = Vocabulary(tiny_tokenizer().backend_tokenizer, 340, frozenset([2])).trie
    assert vocabulary is not None
    pid = os.fork()
    if pid == 0:
        guide_worker.bound(max_s, max_bytes)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        faulthandler.disable()
        grammar.trial(vocabulary, source)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_is_stopped_in_time_would_have_run_on() -> None:
    assert tried_in_a_fork(PRIME, 2 * guide_worker.MAX_S, 1 << 30) == -signal.SIGALRM


def test_one_that_eats_memory_is_stopped() -> None:
    hungry = grammar.json_grammar(json.dumps({"enum": [f"word {i}" for i in range(200_000)]}))
    # What this process has freed would feed the fork.
    ctypes.CDLL(None).malloc_trim(0)
    assert tried_in_a_fork(hungry, 60, 8 << 20) < 0
    assert tried_in_a_fork(hungry, 60, guide_worker.MAX_BYTES) == 0


async def test_expensive_ones_do_not_hold_up_one_that_is_not(check: GuideCheck) -> None:
    await check.check(grammar.regex_grammar("a"))
    expensive = asyncio.create_task(refused(check, PRIME))
    await asyncio.sleep(0.1)
    begin = time.perf_counter()
    await check.check(grammar.regex_grammar("b"))
    assert time.perf_counter() - begin < guide_worker.MAX_S / 2
    assert not expensive.done()
    assert (await expensive).message == guide_worker.TOO_EXPENSIVE


async def test_a_worker_that_was_killed_is_started_again(
    check: GuideCheck, caplog: pytest.LogCaptureFixture
) -> None:
    await check.check(grammar.regex_grammar("a"))
    first = check._worker
    assert first is not None
    waiting = asyncio.create_task(refused(check, PRIME))
    await asyncio.sleep(0.05)
    with caplog.at_level(logging.ERROR):
        first.kill()
        assert (await waiting).code is Code.INTERNAL
    assert "the guide worker has died" in caplog.text
    await check.check(grammar.regex_grammar("a"))
    assert check._worker is not first


async def test_a_worker_that_hangs_is_killed(
    check: GuideCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlserve.engines.native.text.guide_check.PATIENCE_S", 0.2)
    await check.start()
    assert check._worker is not None
    os.kill(check._worker.pid, signal.SIGSTOP)
    error = await refused(check, grammar.regex_grammar("a"))
    assert error.code is Code.INTERNAL
    monkeypatch.undo()
    await check.check(grammar.regex_grammar("a"))


async def test_who_waits_when_it_closes_is_told(check: GuideCheck) -> None:
    await check.start()
    waiting = asyncio.create_task(refused(check, PRIME))
    await asyncio.sleep(0.05)
    await check.close()
    assert (await waiting).code is Code.UNAVAILABLE
    assert (await refused(check, grammar.regex_grammar("a"))).code is Code.UNAVAILABLE


async def test_a_good_guide_is_tried_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Guide(GuideKind.REGEX, "[a-c]{3}")
    async with running(tiny_folder) as engine:
        first = await answer(engine, asked(guide))

        async def never(source: str) -> None:
            raise AssertionError(source)

        monkeypatch.setattr(engine.intake.guides._check, "check", never)
        again = await answer(engine, asked(Guide(GuideKind.REGEX, "[a-c]{3}")))
        assert again.token_ids == first.token_ids
        with pytest.raises(AssertionError):
            await answer(engine, asked(Guide(GuideKind.REGEX, "[a-c]{4}")))
        monkeypatch.undo()
        for i in range(300):
            engine.intake.guides._known[Guide(GuideKind.REGEX, f"a{i}")] = None
            await engine.intake.guides.matcher(guide)
        assert len(engine.intake.guides._known) <= 256
        worker = engine.intake.guides._check._worker
        assert worker is not None
        assert worker.reap(0) is None
    assert worker.reap(0) is not None


async def test_the_worker_ends_with_an_engine_whose_step_thread_died(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    async with running(tiny_folder) as engine:

        def dies() -> None:
            raise MemoryError

        engine._scheduler.plan = dies  # type: ignore[assignment, method-assign]
        with pytest.raises(ServeError):
            await answer(engine, asked(Guide(GuideKind.REGEX, "a")))
        await engine.ended()
        worker = engine.intake.guides._check._worker
        assert worker is not None
    assert worker.reap(0) is not None


async def test_the_same_guide_many_times_at_once_is_tried_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = Guide(GuideKind.REGEX, "[a-c]{3}"), Guide(GuideKind.REGEX, "[")
    async with running(tiny_folder) as engine:
        tried: list[str] = []
        check = engine.intake.guides._check.check

        async def counted(source: str) -> None:
            tried.append(source)
            await check(source)

        monkeypatch.setattr(engine.intake.guides._check, "check", counted)
        outcomes = await asyncio.gather(
            *(engine.intake.guides.matcher(guide) for guide in [good, bad] * 8),
            return_exceptions=True,
        )
        leaver = asyncio.create_task(engine.intake.guides.matcher(Guide(GuideKind.REGEX, "x")))
        await asyncio.sleep(0)
        leaver.cancel()
        await engine.intake.guides.matcher(Guide(GuideKind.REGEX, "x"))
        assert not engine.intake.guides._trials
    assert len(tried) == 3
    assert sum(isinstance(each, ServeError) for each in outcomes) == 8


async def test_a_tokenizer_without_bytes_guides_nothing(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tiny_folder) as engine:
        monkeypatch.setattr(engine.intake.vocabulary, "trie", None)
        with pytest.raises(ServeError, match="tokenizer does not allow") as caught:
            await answer(engine, asked(Guide(GuideKind.REGEX, "a")))
    assert caught.value.field == "guide"
