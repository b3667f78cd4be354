"""Two ways to ask: so many clients who wait for their answers, or arrivals who wait for none."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Final, Self

import numpy as np

from vlserve.bench.targets import AskFailed, Target
from vlserve.bench.workload import Workload
from vlserve.types import ChatRequest, Usage

NUM_AHEAD: Final = 64
_ARRIVALS: Final = 1  # a second stream of chance beside the requests' own


@dataclass(frozen=True, slots=True)
class Limit:
    """When no further request is sent: after so many, or so many seconds. What runs is awaited."""

    num_requests: int | None = None
    duration_s: float | None = None

    def admits(self, index: int, now_s: float) -> bool:
        """Whether the request of that number may be sent at that time."""
        if self.num_requests is not None and index >= self.num_requests:
            return False
        return self.duration_s is None or now_s < self.duration_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request. Times in seconds since the run began.

    `arrived_s` is when it was due, so that a late sending counts as waiting. `pieces_s` are the
    times at which text came. `error` is the kind of failure, None where the answer is whole.
    """

    index: int
    arrived_s: float
    pieces_s: tuple[float, ...]
    ended_s: float
    text: str = field(repr=False)
    usage: Usage | None = None
    finish_reason: str | None = None
    error: str | None = None
    message: str = ""

    @property
    def ttft_s(self) -> float:
        """Time to first token: to the first text, or to the end where no text came."""
        return (self.pieces_s[0] if self.pieces_s else self.ended_s) - self.arrived_s

    @property
    def latency_s(self) -> float:
        """From arrival to the end of the answer."""
        return self.ended_s - self.arrived_s

    @property
    def time_per_token_s(self) -> float | None:
        """Mean time between tokens after the first, None where fewer than two were written."""
        if self.usage is None or self.usage.completion_tokens < 2:
            return None
        return (self.latency_s - self.ttft_s) / (self.usage.completion_tokens - 1)

    @property
    def longest_gap_s(self) -> float:
        """The longest time between two pieces of text."""
        return max((b - a for a, b in pairwise(self.pieces_s)), default=0.0)


@dataclass(slots=True)
class Counts:
    """What a run has come to so far."""

    seconds: float = 0.0
    running: int = 0
    most_running: int = 0
    done: int = 0
    failed: int = 0


class Prepared:
    """Requests made ahead of their turn, in a thread, so that drawing pictures delays none."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._maker = ThreadPoolExecutor(1, "draw")
        self._made: dict[int, Future[ChatRequest]] = {}
        self._num_begun = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._maker.shutdown(wait=False, cancel_futures=True)

    async def request(self, index: int) -> ChatRequest:
        """The request of that number. Each is handed out once."""
        for ahead in range(self._num_begun, index + NUM_AHEAD):
            self._made[ahead] = self._maker.submit(self._workload.request, ahead)
            self._num_begun = ahead + 1
        return await asyncio.wrap_future(self._made.pop(index))


class Run:
    """One run against a target. `on_change` is told when a request begins or ends."""

    def __init__(
        self,
        target: Target,
        workload: Workload,
        timeout_s: float = 600.0,
        on_change: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        self._target = target
        self._workload = workload
        self._timeout_s = timeout_s
        self._on_change = on_change
        self.counts = Counts()

    async def closed_loop(self, num_clients: int, limit: Limit) -> list[Outcome]:
        """So many clients, each of whom asks again as soon as it is answered, or has failed."""
        outcomes: list[Outcome] = []
        indices = count()
        with Prepared(self._workload) as prepared:
            first = [await prepared.request(next(indices)) for _ in range(num_clients)]
            self._begin()

            async def client(index: int, request: ChatRequest) -> None:
                while limit.admits(index, self._now_s()):
                    outcomes.append(await self._ask(index, request, self._now_s()))
                    index = next(indices)
                    request = await prepared.request(index)

            await asyncio.gather(*map(client, range(num_clients), first))
        return sorted(outcomes, key=lambda outcome: outcome.index)

    async def open_loop(self, rate: float, limit: Limit) -> list[Outcome]:
        """Poisson arrivals, `rate` a second, however long the answers take."""
        asked: list[asyncio.Task[Outcome]] = []
        gaps = np.random.default_rng([self._workload.seed, _ARRIVALS, _ARRIVALS])
        with Prepared(self._workload) as prepared:
            request = await prepared.request(0)
            self._begin()
            due_s = 0.0
            for index in count():
                due_s += float(gaps.exponential(1 / rate))
                if not limit.admits(index, due_s):
                    break
                await asyncio.sleep(due_s - self._now_s())
                asked.append(asyncio.create_task(self._ask(index, request, due_s)))
                request = await prepared.request(index + 1)
            return list(await asyncio.gather(*asked))

    def _begin(self) -> None:
        self._begin_s = asyncio.get_running_loop().time()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._begin_s

    async def _ask(self, index: int, request: ChatRequest, arrived_s: float) -> Outcome:
        self._change(running=1)
        outcome = await self._outcome(index, request, arrived_s)
        self._change(running=-1, done=1, failed=outcome.error is not None)
        return outcome

    async def _outcome(self, index: int, request: ChatRequest, arrived_s: float) -> Outcome:
        pieces_s: list[float] = []
        texts: list[str] = []
        usage, finish, error, message = None, None, None, ""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                aclosing(self._target.ask(request)) as chunks,
            ):
                async for chunk in chunks:
                    if chunk.text:
                        pieces_s.append(self._now_s())
                        texts.append(chunk.text)
                    usage = chunk.usage or usage
                    finish = chunk.finish_reason or finish
            if usage is None:
                error, message = "no usage", "the server did not count the tokens of the answer"
        except AskFailed as failure:
            error, message = failure.kind, failure.message
        except TimeoutError:
            error, message = "timeout", f"not answered in {self._timeout_s:g} s"
        return Outcome(
            index, arrived_s, tuple(pieces_s), self._now_s(), "".join(texts),
            usage, finish.value if finish else None, error, message,
        )  # fmt: skip

    def _change(self, running: int, done: int = 0, failed: int = 0) -> None:
        counts = self.counts
        counts.seconds = self._now_s()
        counts.running += running
        counts.most_running = max(counts.most_running, counts.running)
        counts.done += done
        counts.failed += failed
        self._on_change(counts)
