"""The continuous-batching engine: one thread steps, requests join and leave at every step."""

import asyncio
import logging
import threading
import traceback
from collections.abc import AsyncGenerator, Collection, Iterable
from dataclasses import replace

import torch

from vlserve.engines.base import Begun, EngineInfo, Load
from vlserve.engines.native.inbox import Disconnect, Fault, Inbox, unavailable
from vlserve.engines.native.intake import Intake
from vlserve.engines.native.loading import load
from vlserve.engines.native.runners.faults import is_device_lost, is_out_of_memory
from vlserve.engines.native.scheduling.scheduler import Plan
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.errors import FAILED, Code, ServeError
from vlserve.settings import MIB, EngineSettings, ModelSettings
from vlserve.types import Chunk, Request, TokenCount

_log = logging.getLogger(__name__)

OUT_OF_MEMORY = "the device has no memory left for this request: try it later, or make it shorter"

Outcome = tuple[Sequence, Chunk | Begun | ServeError]


class NativeEngine:
    """An Engine over a Transformers model in this process."""

    def __init__(self, model: ModelSettings, settings: EngineSettings) -> None:
        self._model = model
        self._settings = settings
        self._inbox = Inbox()
        self._thread = threading.Thread(target=self._run, name="vlserve-step", daemon=True)
        self._intake: Intake | None = None
        self._num_steps = 0
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Load the model, then step. Raises ModelError for a folder that cannot be served."""
        self._loop = asyncio.get_running_loop()
        loaded = await asyncio.to_thread(load, self._model, self._settings)
        self._runner = loaded.runner
        self._scheduler = loaded.scheduler
        self._sampler = loaded.sampler
        self._device = torch.device(loaded.info.device)
        self._info = loaded.info
        self._publish_load()
        self._intake = Intake(loaded, self._inbox, self._settings.image_cache_mib * MIB)
        await self._intake.start()
        self._thread.start()

    @property
    def info(self) -> EngineInfo:
        """Facts of the started engine."""
        return self._info

    def load(self) -> Load:
        """What runs and waits now; those whose prompt is being made wait as well."""
        now = self._now
        ahead = self.intake.num_preparing + len(self._inbox)
        return replace(now, num_waiting=now.num_waiting + ahead)

    @property
    def intake(self) -> Intake:
        """Of the started engine. Raises RuntimeError before that."""
        if self._intake is None:
            raise RuntimeError("the engine was not started")
        return self._intake

    async def generate(self, request: Request) -> AsyncGenerator[Chunk | Begun]:
        """The answer to one request, a Chunk a token, after Begun when it begins to run."""
        preparing = self.intake.sequence(request)
        # The pictures are let go once they are in the prompt.
        del request
        async with preparing as sequence:
            self._inbox.put(sequence)
            is_done = False
            try:
                while not is_done:
                    item = await sequence.outbox.get()
                    if isinstance(item, ServeError):
                        is_done = True
                        raise item
                    is_done = isinstance(item, Chunk) and item.finish_reason is not None
                    yield item
            finally:
                if not is_done:
                    self._inbox.disconnect(sequence)

    async def count(self, request: Request) -> TokenCount:
        """What the prompt takes, made as any other; the vision tower sees none of its pictures."""
        return await self.intake.count(request)

    async def close(self) -> None:
        """End running requests with UNAVAILABLE and stop."""
        self._inbox.close()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        if self._intake is not None:
            await self._intake.close()
        self._ended.set()

    async def ended(self) -> None:
        """Returns when the step thread has ended."""
        await self._ended.wait()

    def step(self) -> None:
        """Plan, run, pick, commit: a token for each that decodes, and parts of prompts."""
        plan = self._scheduler.plan()
        self._deliver(_begin(plan))
        plans = [plan] if plan.participants else []
        while plans:
            plan = plans.pop()
            try:
                tokens = self._sampler.pick(self._runner.run(plan), plan.sequences)
            except Exception as error:
                plans += self._split(plan, error)
            else:
                self._commit(plan, tokens)

    def _split(self, plan: Plan, error: Exception) -> tuple[Plan, ...]:
        """What to run in place of a plan that failed. Raises the error where the device is lost.

        Out of memory, the plan runs in smaller pieces. A piece that cannot be made smaller fails
        its request alone; any other error fails all requests of the plan.
        """
        if is_device_lost(error, self._device):
            raise error
        is_short = is_out_of_memory(error)
        pieces = plan.split() if is_short else ()
        if pieces:
            _log.warning("out of memory in a step: it runs in smaller pieces")
        else:
            _log.error("a step failed, and with it the requests that it ran", exc_info=error)
            self._fail(plan.participants, OUT_OF_MEMORY if is_short else FAILED)
        traceback.clear_frames(error.__traceback__)  # they hold what the step had computed
        if is_short:
            torch.cuda.empty_cache()
        return pieces

    def _commit(self, plan: Plan, tokens: list[int | Exception]) -> None:
        sampled: list[tuple[Sequence, int]] = []
        failed: list[Sequence] = []
        for sequence, token in zip(plan.sequences, tokens, strict=True):
            if isinstance(token, Exception):
                _log.error("request %s failed at sampling", sequence.id, exc_info=token)
                failed.append(sequence)
            else:
                sampled.append((sequence, token))
        self._deliver(self._scheduler.commit(plan, sampled))
        self._fail(failed)

    def _receive(self) -> bool:
        """Queue new requests and drop those whose caller has disconnected; waits for a message
        when there is nothing to do. False when the engine is to end."""
        for message in self._inbox.take(wait=not self._scheduler.has_work):
            if isinstance(message, Fault):
                raise message.error
            if isinstance(message, Disconnect):
                self._scheduler.remove(message.sequence)
            else:
                self._scheduler.add(message)
        self._publish_load()
        return not self._inbox.is_closed

    def _fail(self, sequences: Iterable[Sequence], message: str = FAILED) -> None:
        failed = list(sequences)
        try:
            for sequence in failed:
                self._scheduler.remove(sequence)
        finally:
            # To release memory may fail as the step did: they are told all the same.
            self._deliver([(s, ServeError(Code.INTERNAL, message)) for s in failed])

    def _deliver(self, outcomes: Collection[Outcome]) -> None:
        self._publish_load()
        if not outcomes:
            return
        self._loop.call_soon_threadsafe(_hand_out, outcomes)

    def _publish_load(self) -> None:
        scheduler = self._scheduler
        self._now = Load(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_free_slots=scheduler.num_free_slots,
            num_steps=self._num_steps,
            num_free_pages=scheduler.num_free_pages,
        )

    def _run(self) -> None:
        try:
            self._runner.enter_thread()
            with torch.inference_mode():
                while self._receive():
                    self._num_steps += 1
                    self.step()
        except Exception:
            # In a process of its own the engine ends with it, and its supervisor starts a new one.
            _log.critical("the step thread has died, and the engine with it", exc_info=True)
        finally:
            self._end()

    def _end(self) -> None:
        """Nobody is left waiting, whether the engine was closed or died."""
        self._inbox.close()
        left = self._scheduler.sequences + self._inbox.left()
        self._deliver([(sequence, unavailable()) for sequence in left])
        self._loop.call_soon_threadsafe(self._ended.set)


def _begin(plan: Plan) -> list[Outcome]:
    """Begun for each whose first step this is."""
    new = [prefill.sequence for prefill in plan.prefills if not prefill.sequence.has_begun]
    for sequence in new:
        sequence.has_begun = True
    return [(sequence, Begun()) for sequence in new]


def _hand_out(outcomes: Iterable[Outcome]) -> None:
    for sequence, outcome in outcomes:
        sequence.outbox.put_nowait(outcome)
