"""The runner of a GPU, run on a CPU: tokens are `generate`'s, pages are shared and none is lost."""

import asyncio
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from tests.asked import picture, request
from tests.engines.collect import (
    answer,
    chunks_of,
    on_pages,
    paged_runner_of,
    running,
)
from tests.engines.native.test_graphs import FakeRecorder
from tests.families import write_family
from tests.oracle import Oracle
from tests.tiny_model import write_tiny_model
from vlserve.engines.native.engine import NativeEngine
from vlserve.engines.native.gpu.cuda_graphs import EagerRecorder
from vlserve.engines.native.gpu.kernels import TRITON
from vlserve.engines.native.gpu.runner import PagedRunner
from vlserve.engines.native.runners.self_check import NotBatchedError, check_batching
from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling.pages import num_pages
from vlserve.engines.native.scheduling.scheduler import Plan, Prefill, Scheduler
from vlserve.errors import ServeError
from vlserve.models.catalog import load
from vlserve.models.features import ImageFeatures
from vlserve.settings import EngineSettings
from vlserve.types import Message, Request, Role, SamplingParams

# Of each thing that a family may want of its own, one that does.
UNLIKE = ("llava", "qwen3_vl", "gemma3", "idefics2")
NUM_SLOTS = 5
SETTINGS = EngineSettings(max_running=NUM_SLOTS, cache_mib=8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU see tests/gpu/test_engine.py")
async def test_tokens_by_triton_in_its_interpreter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_model(tmp_path, sliding_window=40)
    oracle, rng = Oracle(folder), random.Random(8)
    asked = [
        request(rng, str(index), sampling=SamplingParams(max_tokens=5), num_images=index)
        for index in range(3)
    ]
    there = "vlserve.engines.native.gpu.runner."
    with (
        on_pages(),
        mock.patch(f"{there}CudaRecorder", FakeRecorder),
        mock.patch(f"{there}choose_kernels", return_value=TRITON),
    ):
        async with running(folder, max_running=2, cache_mib=1) as engine:
            assert engine.info.is_batched
            assert isinstance(paged_runner_of(engine)._graphs._recorder, FakeRecorder)
            answers = await asyncio.gather(*(answer(engine, each) for each in asked))
    wanted = [oracle.answer(each.messages, each.sampling) for each in asked]
    equal = sum(a.token_ids == w for a, w in zip(answers, wanted, strict=True))
    with capsys.disabled():
        print(f"by Triton's interpreter: tried 3, equal {equal}")
    assert equal == 3


def held_together(engine: NativeEngine) -> list[dict[str, list[int]]]:
    """From now on the pages of all who take part in a step, of each step with more than one."""
    runner = paged_runner_of(engine)
    run = runner.run
    held: list[dict[str, list[int]]] = []

    def noted(plan: Plan) -> Logits:
        if len(plan.participants) > 1:
            held.append({each.id: list(each.pages) for each in plan.participants})
        return run(plan)

    runner.run = noted  # type: ignore[method-assign]
    return held


def question(name: str, words: int, last: str) -> Request:
    text = " ".join(["how many shapes are there"] * words) + last
    return Request(name, (Message(Role.USER, (text,)),), SamplingParams(max_tokens=40))


async def test_the_same_beginning_lies_in_the_same_pages(tiny_folder: Path, oracle: Oracle) -> None:
    first, second = question("first", 20, " in all?"), question("second", 20, " here?")
    # Still running when the second comes, however late that is.
    first = replace(first, sampling=SamplingParams(max_tokens=240, min_tokens=240))
    with on_pages():
        async with running(tiny_folder) as engine:
            together = held_together(engine)
            stream = chunks_of(engine, first)
            tokens = [*(await anext(stream)).token_ids, *(await anext(stream)).token_ids]
            other = await answer(engine, second)
            tokens += [token async for chunk in stream for token in chunk.token_ids]
    held = together[-1]
    shared = [a for a, b in zip(held["first"], held["second"], strict=False) if a == b]
    num_shared = other.usage.cached_tokens // 32
    assert num_shared >= 3
    assert shared == held["first"][:num_shared]
    assert not set(held["first"][num_shared:]) & set(held["second"][num_shared:])
    assert tokens == oracle.answer(first.messages, first.sampling)
    assert other.token_ids == oracle.answer(second.messages, second.sampling)


async def test_poisoned_free_pages_change_nothing(tiny_folder: Path) -> None:
    asked = question("r", 9, "?")
    with on_pages():
        async with running(tiny_folder) as engine:
            clean = await answer(engine, asked)
            cache = paged_runner_of(engine).cache
            pages = engine._scheduler.memory.pages
            known = list(pages._digest_of)
            assert len(known) == pages.num_cached_pages == clean.usage.prompt_tokens // 32 > 0
            free = torch.tensor(pages._free)
            for tensor in (*cache.keys, *cache.values):
                tensor[free] = math.nan
            again = await answer(engine, asked)
            assert again.usage.cached_tokens > 0
            assert again.token_ids == clean.token_ids
            # The control: what is known is read. The one that does fails, and not the other.
            for tensor in (*cache.keys, *cache.values):
                tensor[torch.tensor(known)] = math.nan
            other = question("other", 1, "?")
            failed, answered = await asyncio.gather(
                answer(engine, asked), answer(engine, other), return_exceptions=True
            )
            assert isinstance(failed, ServeError)
            assert not isinstance(answered, BaseException)


async def test_no_page_is_lost_whoever_comes_and_goes(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(11)
    counts = {"answered": 0, "left": 0, "steps": 0}

    async def ask(index: int) -> None:
        asked = request(rng, str(index), sampling=SamplingParams(max_tokens=rng.randint(1, 30)))
        patience = rng.choice((2, 5, 1000))
        stream = chunks_of(engine, asked)
        async for chunk in stream:
            patience -= 1
            if chunk.finish_reason is not None:
                counts["answered"] += 1
            elif not patience:
                counts["left"] += 1
                break
        await stream.aclose()

    with on_pages():
        async with running(tiny_folder, max_running=NUM_SLOTS, cache_mib=1) as engine:
            scheduler = engine._scheduler
            pages, plan = scheduler.memory.pages, scheduler.plan

            def counted() -> Plan:
                made = plan()
                used = {page for each in scheduler.sequences for page in each.pages}
                assert len(used) + pages.num_free == pages.num_pages
                counts["steps"] += 1
                return made

            scheduler.plan = counted  # type: ignore[method-assign]
            for start in range(0, 60, 12):
                await asyncio.gather(*(ask(start + index) for index in range(12)))
            while scheduler.has_work or len(engine._inbox):
                await asyncio.sleep(0.001)
            assert pages.num_free == pages.num_pages
            assert engine.info.cache_bytes <= 1024 * 1024
    with capsys.disabled():
        print(f"pages: {counts}, free {pages.num_free} of {pages.num_pages}")
    assert counts["answered"] + counts["left"] == 60
    assert counts["left"] > 5


@pytest.mark.parametrize("family", UNLIKE)
def test_a_step_never_waits_for_the_device(family: str, tmp_path: Path) -> None:
    """Tensors of the meta device have no numbers to wait for: to read one fails."""
    adapter = load(
        str(write_family(family, tmp_path)), device=torch.device("cpu"), dtype=torch.float32
    )
    turns = (Message(Role.USER, (picture(random.Random(1)), "is there a red circle?")),)
    asked = adapter.prepare(turns)
    with torch.inference_mode():
        features = [adapter.encode(image.inputs) for image in asked.images]
    adapter.model.to("meta")
    for image, seen in zip(asked.images, features, strict=True):
        layers = tuple(layer.to("meta") for layer in seen.deepstack)
        image.features = ImageFeatures(seen.rows.to("meta"), layers)
    runner = PagedRunner(adapter, SETTINGS)
    sequence: Any = mock.Mock(prompt=asked, token_ids=[], num_tokens=len(asked.token_ids))
    sequence.all_token_ids = asked.token_ids
    sequence.pages = list(range(num_pages(len(asked.token_ids) + 1)))
    prefill = Prefill(sequence, 0, len(asked.token_ids))
    size = adapter.text_config.vocab_size
    with torch.inference_mode():
        if features[0].deepstack:
            # Transformers picks the rows of deeper layers by a mask.
            with pytest.raises((RuntimeError, NotImplementedError), match="nonzero"):
                runner._prefill([prefill])
        else:
            assert runner._prefill([prefill]).shape == (1, size)
        sequence.token_ids = [5]
        sequence.num_tokens += 1
        outputs = runner._decode([sequence])
        assert outputs.logits.shape == (1, size)
        assert outputs.greedy.shape == (1,)
        # The control.
        with pytest.raises(RuntimeError, match="meta"):
            outputs.greedy.tolist()


def test_a_step_that_cannot_be_recorded_is_run_eagerly(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenRecorder(FakeRecorder):
        def record(self, run: Any) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

    adapter = load(str(tiny_folder), device=torch.device("cpu"), dtype=torch.float32)
    monkeypatch.setattr("vlserve.engines.native.gpu.runner.CudaRecorder", BrokenRecorder)
    kernels = mock.Mock(can_graph=True)
    monkeypatch.setattr(
        "vlserve.engines.native.gpu.runner.choose_kernels", lambda *_, **__: kernels
    )
    runner = PagedRunner(adapter, SETTINGS)
    assert "cannot be recorded, and is slow: operation not permitted" in caplog.text
    assert isinstance(runner._graphs._recorder, EagerRecorder)


def test_the_self_check_sees_what_pages_get_wrong(tiny_folder: Path) -> None:
    adapter = load(str(tiny_folder), device=torch.device("cpu"), dtype=torch.float32)
    runner = PagedRunner(adapter, SETTINGS)
    with torch.inference_mode():
        check_batching(adapter, runner)
        # The control: prompts are written over each other.
        misplaced = mock.patch(
            "vlserve.engines.native.gpu.runner.places_of",
            side_effect=lambda prefill: torch.arange(prefill.end - prefill.start),
        )
        with misplaced, pytest.raises(NotBatchedError, match="its logits differ"):
            check_batching(adapter, runner)


def test_scheduler_and_runner_agree_on_room(tiny_folder: Path) -> None:
    adapter = load(str(tiny_folder), device=torch.device("cpu"), dtype=torch.float32)
    runner = PagedRunner(adapter, SETTINGS)
    scheduler = Scheduler(runner.max_running, runner.memory())
    cache = runner.cache
    assert scheduler.num_free_pages == cache.num_pages == len(cache.keys[0])
    assert runner.max_context_tokens == min(512, cache.num_tokens)
    assert cache.num_bytes == sum(t.nbytes for t in (*cache.keys, *cache.values))
    assert np.isclose(cache.num_bytes, 8 * 2**20, rtol=0.05)
