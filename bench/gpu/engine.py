"""What callers of the engine get: tokens per second under load, and the first token."""

import asyncio
import hashlib
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np

from bench.gpu.processor import make_adapter
from bench.gpu.report import Report
from vlserve.engines.native.engine import NativeEngine
from vlserve.engines.native.gpu.runner import PagedRunner
from vlserve.engines.native.scheduling import scheduler
from vlserve.settings import EngineSettings, ModelSettings
from vlserve.types import Chunk, Image, Message, Request, Role, SamplingParams

Content = Callable[[tuple[int, int, int]], tuple[str | Image, ...]]
CLIENTS = (1, 8, 32, 64)
# The engine's own bounds were found on a CPU; what others would give, at SOME clients.
BUDGETS = (512, 2048)
SOME = 32
QUESTION = "How many shapes are there?"
# Where the device is a CPU, which only tries the measurement: of a GPU the engine takes what is
# left.
CPU_CACHE_MIB = 64


@dataclass(frozen=True, slots=True)
class Load:
    """How many requests a client makes one after the other, and their answers' tokens."""

    requests: int
    max_tokens: int


FULL = Load(requests=3, max_tokens=128)
TOY = Load(requests=1, max_tokens=8)


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer; times in seconds."""

    first_token: float
    longest_gap: float
    tokens: int


def measure_engine(model: Any, report: Report, load: Load) -> None:
    """Clients that ask without a pause, more and more of them; text alone, then with pictures.

    Every picture and every question is new: nothing is known from before.
    """
    asyncio.run(_measure(model, report, load))


async def _measure(model: Any, report: Report, load: Load) -> None:
    is_cuda = model.device.type == "cuda"
    adapter = make_adapter(model)
    settings = EngineSettings(
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        max_running=CLIENTS[-1],
        cache_mib=None if is_cuda else CPU_CACHE_MIB,
    )
    began = time.perf_counter()
    engine = NativeEngine(ModelSettings(name="random weights"), settings)
    # There is no folder: the weights were made on the device. The runner is a GPU's everywhere.
    with (
        mock.patch("vlserve.engines.native.loading.load_model", return_value=adapter),
        mock.patch("vlserve.engines.native.loading.runner_kind", return_value=PagedRunner),
    ):
        await engine.start()
    try:
        report.add(
            "engine",
            started_s=time.perf_counter() - began,
            is_batched=engine.info.is_batched,
            cache_gb=engine.info.cache_bytes / 1e9,
            cache_pages=engine.load().num_free_pages,
        )
        side = model.config.vision_config.image_size
        kinds: list[tuple[str, Content]] = [
            ("text", _words),
            (f"picture of {side} x {side}", partial(_picture_and_words, side)),
        ]
        for kind, content in kinds:
            # Kernels that are compiled when they are first seen.
            await _client(engine, _requests(content, 1, Load(1, 2))[0])
            for clients in CLIENTS:
                figures = await _crowd(engine, _requests(content, clients, load))
                report.add("through the engine", prompt=kind, clients=clients, **figures)
            for budget in BUDGETS:
                with (
                    mock.patch.object(engine._scheduler, "step_tokens", budget),
                    mock.patch.object(scheduler, "IDLE_STEP_TOKENS", budget),
                ):
                    figures = await _crowd(engine, _requests(content, SOME, load, budget))
                report.add(
                    "prompt tokens in a step", prompt=kind, at_most=budget, clients=SOME, **figures
                )
    finally:
        await engine.close()


def _requests(content: Content, clients: int, load: Load, part: int = 0) -> list[list[Request]]:
    """Of each client, made before the clock starts: a caller has its picture. No two parts, and
    no two numbers of clients, have one in common."""
    sampling = SamplingParams(max_tokens=load.max_tokens)
    numbers = range(clients * load.requests)
    made = [
        Request(
            f"{clients}-{number}", (Message(Role.USER, content((part, clients, number))),), sampling
        )
        for number in numbers
    ]
    return [made[client::clients] for client in range(clients)]


async def _crowd(engine: NativeEngine, requests: list[list[Request]]) -> dict[str, float]:
    """The figures of clients that ask at the same time."""
    steps = engine.load().num_steps
    start = time.perf_counter()
    nested = await asyncio.gather(*(_client(engine, each) for each in requests))
    took = time.perf_counter() - start
    timings = [timing for client in nested for timing in client]
    first = sorted(timing.first_token for timing in timings)
    return {
        "requests": len(timings),
        "tokens_per_s": sum(timing.tokens for timing in timings) / took,
        "requests_per_s": len(timings) / took,
        "first_token_p50_ms": statistics.median(first) * 1e3,
        "first_token_p95_ms": first[int(0.95 * (len(first) - 1))] * 1e3,
        "longest_gap_ms": max(timing.longest_gap for timing in timings) * 1e3,
        "step_ms": took / max(1, engine.load().num_steps - steps) * 1e3,
    }


async def _client(engine: NativeEngine, requests: list[Request]) -> list[Timing]:
    """Its requests, one after the other."""
    timings = []
    for request in requests:
        start = time.perf_counter()
        items = engine.generate(request)
        times = [time.perf_counter() async for c in items if isinstance(c, Chunk) and c.token_ids]
        gaps = [after - before for before, after in pairwise(times)]
        timings.append(Timing(times[0] - start, max(gaps, default=0.0), len(times)))
    return timings


def _words(number: tuple[int, int, int]) -> tuple[str, ...]:
    """About 400 tokens, new from the beginning."""
    letters = random.Random(repr(number)).choices("abcdefgh ", k=380)
    return (f"{number} {''.join(letters)}",)


def _picture_and_words(side: int, number: tuple[int, int, int]) -> tuple[str | Image, ...]:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image(pixels, hashlib.sha256(pixels.tobytes()).hexdigest()), QUESTION
