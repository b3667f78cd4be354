"""Two ways to answer the same requests on the same weights, timed alike."""

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image as PILImage
from transformers.generation.streamers import BaseStreamer

from bench.peer_servers.generate import Generator
from vlserve.engines.base import Begun, Engine
from vlserve.types import Request


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer: seconds since the first arrival, and the tokens."""

    arrived_s: float
    first_token_s: float
    finished_s: float
    token_ids: tuple[int, ...]
    longest_gap_s: float

    @property
    def ttft_s(self) -> float:
        """Time to first token, from arrival."""
        return self.first_token_s - self.arrived_s


async def serve_native(
    engine: Engine, requests: Sequence[Request], interval_s: float
) -> list[Timing]:
    """Every request at its time of arrival, all at once if need be."""
    start = time.perf_counter()

    async def one(index: int) -> Timing:
        arrived = index * interval_s
        await asyncio.sleep(start + arrived - time.perf_counter())
        first = 0.0
        token_ids: list[int] = []
        gap = now = 0.0
        async for chunk in engine.generate(requests[index]):
            if isinstance(chunk, Begun):
                continue
            before, now = now, time.perf_counter() - start
            gap = max(gap, now - before) if first else 0.0
            first = first or now
            token_ids += chunk.token_ids
        return Timing(arrived, first, now, tuple(token_ids), gap)

    return await asyncio.gather(*map(one, range(len(requests))))


class TokenTimes(BaseStreamer):
    """Notes when `generate` has a new token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        """Called with the prompt first, then with every token."""
        del value
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to do."""


class Sequential:
    """`generate`, one request after the other in order of arrival."""

    def __init__(self, folder: Path) -> None:
        self._generator = Generator(folder)
        self.num_threads = torch.get_num_threads()

    def serve(self, requests: Sequence[Request], interval_s: float) -> list[Timing]:
        """Every request as soon as those before it are done."""
        torch.set_num_threads(self.num_threads)
        arrivals: queue.SimpleQueue[int] = queue.SimpleQueue()
        start = time.perf_counter()

        def arrive() -> None:
            for index in range(len(requests)):
                time.sleep(max(0.0, start + index * interval_s - time.perf_counter()))
                arrivals.put(index)

        threading.Thread(target=arrive, daemon=True).start()
        timings = []
        for _ in requests:
            index = arrivals.get()
            times, token_ids = self._answer(requests[index])
            gap = max((b - a for a, b in pairwise(times)), default=0.0)
            arrived, first, last = index * interval_s, times[0] - start, times[-1] - start
            timings.append(Timing(arrived, first, last, token_ids, gap))
        return timings

    def _answer(self, request: Request) -> tuple[list[float], tuple[int, ...]]:
        pictures = [PILImage.fromarray(p.pixels) for m in request.messages for p in m.pictures()]
        conversation = [
            {
                "role": message.role.value,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                    for part in message.content
                ],
            }
            for message in request.messages
        ]
        inputs = self._generator.inputs([conversation], [pictures])
        streamer = TokenTimes()
        ids = self._generator.run(inputs, request.sampling.max_tokens, streamer)
        return streamer.times[1:], tuple(ids[0, inputs["input_ids"].shape[1] :].tolist())
