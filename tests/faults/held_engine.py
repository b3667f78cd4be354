"""The native engine's process with gates in it: python -m tests.faults.held_engine.

It holds a request that says so in the tower, in a step of its prompt or in a step of its answer,
and notes when the wall's Cancel arrives, when each step begins and when each sequence is gone. A
step takes STEP_S longer than the tiny model's, so that it is as long as one of a model worth
serving. On SIGUSR1 it says what it holds.
"""

import asyncio
import gc
import signal
import time
import weakref
from typing import Any
from unittest import mock

from tests.faults.held import Hold, Phase, held, note
from vlserve.engines import catalog, worker
from vlserve.engines.native import engine as native
from vlserve.engines.native import intake, loading
from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling import scheduler
from vlserve.engines.native.scheduling.memory import Memory
from vlserve.engines.native.scheduling.pages import PAGE
from vlserve.engines.native.scheduling.scheduler import Plan, Scheduler
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.text.matcher import Matcher
from vlserve.engines.native.vision.encoder import Encoder
from vlserve.engines.wire import Cancel, Channel, Submit, ToWorker
from vlserve.models.features import image_features
from vlserve.models.prompt import Prompt, PromptImage
from vlserve.timings import Stopwatch
from vlserve.types import Request

STEP_S = 0.005
NUM_TOKENS = 3  # of an answer, before it is held in a step
_HOLDS: dict[str, Hold] = {}  # by the ids of requests, and by the keys of pictures
_SEQUENCES: "weakref.WeakSet[Sequence]" = weakref.WeakSet()
_ARRAYS: list["weakref.ref[Any]"] = []  # of pictures: before the tower and after it


class HeldChannel(Channel[ToWorker]):
    """Notes what of the callers' leaving arrives here."""

    _numbers: dict[int, int]

    async def receive(self) -> ToWorker:
        message = await super().receive()
        numbers = self.__dict__.setdefault("_numbers", {})
        match message:
            case Submit(key, request) if hold := _hold(request):
                numbers[key] = hold.number
            case Cancel(key):
                note("cancel", numbers.get(key, 0))
        return message


class HeldEncoder(Encoder):
    """Holds a picture in the tower."""

    def _see(self, tenant: str, image: PromptImage) -> None:
        if hold := _HOLDS.get(image.key):
            hold.wait()
        super()._see(tenant, image)
        _ARRAYS.append(weakref.ref(image_features(image).rows))


class HeldScheduler(Scheduler):
    """Notes who waits and who is gone. A prompt takes several steps, whoever else runs."""

    def __init__(self, num_slots: int, memory: Memory, step_tokens: int = PAGE) -> None:
        del step_tokens
        super().__init__(num_slots, memory, PAGE)
        self._num_slots = num_slots

    def add(self, sequence: Sequence) -> None:
        super().add(sequence)
        hold = _HOLDS.get(sequence.id)
        if hold is not None and hold.phase is Phase.QUEUED:
            hold.reach()

    def remove(self, sequence: Sequence) -> None:
        super().remove(sequence)
        if hold := _HOLDS.get(sequence.id):
            pages = self.memory.pages
            num_owned = sum(len(each.pages) for each in self._running.values())
            note(
                "gone",
                hold.number,
                has_begun=sequence.has_begun,
                num_tokens=len(sequence.token_ids),
                slots_missing=self._num_slots - self.num_free_slots - self.num_running,
                pages_missing=sum(pages._references) - num_owned,
            )


class HeldIntake(intake.Intake):
    """Notes sequences and pictures."""

    async def _prompt(self, request: Request) -> Prompt:
        hold = _hold(request)
        if hold is not None:
            _HOLDS[request.id] = hold
        prompt = await super()._prompt(request)
        for image in prompt.images:
            if hold is not None and hold.phase is Phase.ENCODE:
                _HOLDS[image.key] = hold
            if image.features is None:
                _ARRAYS.extend(map(weakref.ref, image.inputs.values()))
        return prompt

    async def _see(self, request: Request, prompt: Prompt) -> None:
        try:
            await super()._see(request, prompt)
        except asyncio.CancelledError:
            if hold := _HOLDS.get(request.id):
                note("gone", hold.number, has_begun=False, slots_missing=0, pages_missing=0)
            raise

    def _sequence(
        self, request: Request, prompt: Prompt, matcher: Matcher | None, watch: Stopwatch
    ) -> Sequence:
        sequence = super()._sequence(request, prompt, matcher, watch)
        _SEQUENCES.add(sequence)
        return sequence


class HeldEngine(native.NativeEngine):
    """See above."""

    async def start(self) -> None:
        await super().start()
        run = self._runner.run

        def held_run(plan: Plan) -> Logits:
            self._hold_step(plan)
            return run(plan)

        self._runner.run = held_run  # type: ignore[method-assign]
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._tell)
        gc.collect()
        gc.freeze()  # so that to look for what is still held takes no time

    def _hold_step(self, plan: Plan) -> None:
        note("step")
        time.sleep(STEP_S)
        for prefill in plan.prefills:
            hold = _HOLDS.get(prefill.sequence.id)
            if hold is not None and hold.phase is Phase.PREFILL and not prefill.is_last:
                hold.wait()
        for sequence in plan.decodes:
            hold = _HOLDS.get(sequence.id)
            is_there = len(sequence.token_ids) >= NUM_TOKENS
            if hold is not None and hold.phase is Phase.STEP and is_there:
                hold.wait()

    def _tell(self) -> None:
        gc.collect()
        now = self.load()
        kept = self.intake.images._images.values()
        cached = {id(array) for image in kept for array in image.inputs.values()}
        cached |= {id(image_features(image).rows) for image in kept}
        alive = [array for each in _ARRAYS if (array := each()) is not None]
        _ARRAYS[:] = map(weakref.ref, alive)
        note(
            "holds",
            slots=now.num_running,
            waiting=now.num_waiting,
            pages=self._scheduler.memory.pages.num_pages - now.num_free_pages,
            towers_queue=len(self.intake.encoder._queue),
            sequences=len(_SEQUENCES),
            pictures=sum(id(array) not in cached for array in alive),
        )


def _hold(request: Request) -> Hold | None:
    return held(*(part for m in request.messages for part in m.content if isinstance(part, str)))


def main() -> None:
    """The worker, with all of this in it."""
    mock.patch.object(worker, "Channel", HeldChannel).start()
    mock.patch.object(intake, "Encoder", HeldEncoder).start()
    mock.patch.object(native, "Intake", HeldIntake).start()
    mock.patch.object(loading, "Scheduler", HeldScheduler).start()
    scheduler.IDLE_STEP_TOKENS = PAGE  # type: ignore[misc]
    catalog.ENGINES["native"] = (__name__, HeldEngine.__name__)
    worker.main()


if __name__ == "__main__":
    main()
