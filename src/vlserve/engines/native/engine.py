"""The continuous-batching engine: one thread steps, requests join and leave at every step."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from vlserve.engines.base import RETRY_S, Begun, EngineInfo, Load
from vlserve.engines.native.cpu.runner import Runner
from vlserve.engines.native.gpu.runner import PagedRunner
from vlserve.engines.native.runners.base import StepRunner
from vlserve.engines.native.runners.self_check import NotBatchedError, check_batching
from vlserve.engines.native.runners.serial import SerialRunner
from vlserve.engines.native.sampling.sampler import Sampler
from vlserve.engines.native.scheduling.memory import PagedMemory
from vlserve.engines.native.scheduling.pages import num_pages, page_digests
from vlserve.engines.native.scheduling.scheduler import Plan, Scheduler
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.text.detokenizer import Detokenizer
from vlserve.engines.native.text.guides import Guides
from vlserve.engines.native.text.matcher import Matcher
from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.engines.native.vision.encoder import Encoder
from vlserve.engines.native.vision.image_cache import ImageCache
from vlserve.errors import Code, ServeError, invalid
from vlserve.models.catalog import load as load_model
from vlserve.models.errors import ModelError
from vlserve.models.prompt import Prompt, PromptImage
from vlserve.settings import MIB, EngineSettings, ModelSettings
from vlserve.timings import Stage, Stopwatch
from vlserve.types import Chunk, Image, Request, SamplingParams, TokenCount

# Threads that make prompts of requests (scaling pictures, mostly). More would take the
# processor from the step that everybody waits for.
NUM_PREPARERS = 2
_log = logging.getLogger(__name__)

Made = TypeVar("Made", Prompt, TokenCount)
Outcome = tuple[Sequence, Chunk | Begun | ServeError]


@dataclass(frozen=True, slots=True)
class Departure:
    """Told to the step thread: nobody reads this answer any more."""

    sequence: Sequence


class NativeEngine:
    """An Engine over a Transformers model in this process."""

    def __init__(self, model: ModelSettings, settings: EngineSettings) -> None:
        self._model = model
        self._settings = settings
        self._inbox: queue.SimpleQueue[Sequence | Departure | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="vlserve-step", daemon=True)
        self._preparers = ThreadPoolExecutor(NUM_PREPARERS, "vlserve-prepare")
        self._encoder: Encoder | None = None
        self._num_preparing = 0
        self._num_steps = 0
        # Guards the promise that whatever is in the inbox is answered: closed means nothing
        # more goes in.
        self._door = threading.Lock()
        self._is_closed = False
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Load the model, then step. Raises ModelError for a folder that cannot be served."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._load_model)
        self._images = ImageCache(self._settings.image_cache_mib * MIB)
        self._encoder = Encoder(self._adapter, self._images, self._runner.tower_threads)
        self._encoder.start()
        await self._guides.start()
        self._thread.start()

    @property
    def info(self) -> EngineInfo:
        """Facts of the started engine."""
        return self._info

    def load(self) -> Load:
        """What runs and waits now; those whose prompt is being made wait as well."""
        now = self._now
        ahead = self._num_preparing + self._inbox.qsize()
        return replace(now, num_waiting=now.num_waiting + ahead)

    async def generate(self, request: Request) -> AsyncGenerator[Chunk | Begun]:
        """The answer to one request, a Chunk a token, after Begun when it begins to run."""
        watch = Stopwatch()
        watch.enter(Stage.PREPROCESS)
        matcher = await self._guided(request)
        prompt = await self._prepare(request)
        # The pictures are in the prompt now.
        request = replace(request, messages=())
        watch.enter(Stage.ENCODE)
        await self._see(request, prompt)
        watch.enter(Stage.PREPROCESS)
        sequence = self._sequence(request, prompt, matcher, watch)
        watch.enter(Stage.QUEUE)
        self._post(sequence)
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
                self._inbox.put(Departure(sequence))

    async def count(self, request: Request) -> TokenCount:
        """What the prompt takes, made as any other; the vision tower sees none of its pictures."""
        return await self._made(request, lambda: self._adapter.count(request.messages))

    async def close(self) -> None:
        """End running requests with UNAVAILABLE and stop."""
        with self._door:
            self._is_closed = True
        self._inbox.put(None)
        self._preparers.shutdown(wait=False)
        if self._encoder is not None:
            await asyncio.to_thread(self._encoder.close)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        if self._thread.ident is not None:  # it was started, and the guides before it
            await self._guides.close()
        self._ended.set()

    async def ended(self) -> None:
        """Returns when the step thread has ended."""
        await self._ended.wait()

    def step(self) -> None:
        """A token for everyone who decodes, and the next parts of prompts."""
        plan = self._scheduler.plan()
        if not plan.participants:
            return
        self._deliver(_begun(plan))
        try:
            tokens = self._picked(plan)
        except Exception:
            _log.exception("a step failed, and with it the requests that it ran")
            self._fail(plan.participants)
        else:
            self._commit(plan, tokens)

    def _picked(self, plan: Plan) -> list[int | Exception]:
        """The plan run; the next token of each sequence that gets one, or what failed for it."""
        runner = self._runner
        if isinstance(runner, PagedRunner) and self._sampler.is_greedy(plan.sequences):
            return runner.greedy(plan)
        return self._sampler.sample(runner.run(plan), plan.sequences)

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

    def _drain_inbox(self) -> bool:
        """Take in who came and let go of who left; waits for news when there is nothing to do.
        False when the engine is to end."""
        is_idle = not self._scheduler.has_work
        while is_idle or not self._inbox.empty():
            message = self._inbox.get()
            is_idle = False
            if message is None:
                return False
            if isinstance(message, Departure):
                self._scheduler.remove(message.sequence)
            else:
                self._scheduler.add(message)
        self._publish_load()
        return True

    def _fail(self, sequences: Iterable[Sequence]) -> None:
        failed = list(sequences)
        try:
            for sequence in failed:
                self._scheduler.remove(sequence)
        finally:
            # To let go clears memory, and may fail as they did: they are told all the same.
            self._deliver([(s, ServeError(Code.INTERNAL, "the request failed")) for s in failed])

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
                while self._drain_inbox():
                    self._num_steps += 1
                    self.step()
        finally:
            self._end()

    def _end(self) -> None:
        """Nobody is left waiting, whether the engine was closed or died."""
        with self._door:
            self._is_closed = True
        left = self._scheduler.sequences
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Sequence):
                left.append(message)
        self._deliver([(sequence, _unavailable()) for sequence in left])
        self._loop.call_soon_threadsafe(self._ended.set)

    def _post(self, sequence: Sequence) -> None:
        with self._door:
            if self._is_closed:
                raise _unavailable()
            self._inbox.put(sequence)

    async def _prepare(self, request: Request) -> Prompt:
        self._refuse_unknown_tokens(request.sampling)
        return await self._made(request, lambda: self._prepared(request))

    async def _made(self, request: Request, make: Callable[[], Made]) -> Made:
        """What `make` makes of a request on a thread of its own."""
        if self._is_closed:
            raise _unavailable()
        self._refuse_long_text(request)
        self._num_preparing += 1
        try:
            return await self._loop.run_in_executor(self._preparers, make)
        except ServeError:
            raise
        except Exception as error:
            _log.exception("request %s failed before it ran", request.id)
            raise ServeError(Code.INTERNAL, "the request failed") from error
        finally:
            self._num_preparing -= 1

    async def _guided(self, request: Request) -> Matcher | None:
        """Before the pictures are looked at: a guide that is refused should cost nothing more."""
        if self._is_closed:
            raise _unavailable()
        guide = request.sampling.guide
        return None if guide is None else await self._guides.matcher(guide)

    def _prepared(self, request: Request) -> Prompt:
        if self._is_closed:
            raise _unavailable()

        if not self._is_batched:
            return self._adapter.prepare_whole(request.messages)

        def seen(picture: Image) -> PromptImage | None:
            return self._images.get(request.tenant, picture.key)

        return self._adapter.prepare(request.messages, seen)

    async def _see(self, request: Request, prompt: Prompt) -> None:
        """Until every picture of a prompt has its features, where it gets them before it runs."""
        if not self._is_batched:
            return
        assert self._encoder is not None  # noqa: S101 - made at the start
        self._num_preparing += 1
        try:
            for image in prompt.images:
                if image.features is None:
                    await asyncio.wrap_future(self._encoder.submit(request.tenant, image))
            num_rows = sum(i.features.num_tokens for i in prompt.images if i.features)
            if num_rows != len(prompt.places):
                raise RuntimeError(f"{num_rows} features for {len(prompt.places)} tokens")
        except asyncio.CancelledError:
            # Ours, unless the encoder was closed underneath.
            if self._is_closed:
                raise _unavailable() from None
            raise
        except Exception as error:
            _log.exception("request %s failed at its pictures", request.id)
            raise ServeError(Code.INTERNAL, "the request failed") from error
        finally:
            self._num_preparing -= 1

    def _refuse_long_text(self, request: Request) -> None:
        """Before it is tokenised, which takes long and cannot be stopped."""
        texts = [p for message in request.messages for p in message.content if isinstance(p, str)]
        num_characters = sum(map(len, texts))
        if num_characters > self._info.max_context_tokens * self._adapter.longest_token:
            raise invalid(
                "messages",
                f"{num_characters} characters do not fit the model's context"
                f" of {self._info.max_context_tokens} tokens",
            )

    def _refuse_unknown_tokens(self, sampling: SamplingParams) -> None:
        vocab_size = self._adapter.text_config.vocab_size
        for name in ("logit_bias", "stop_token_ids"):
            unknown = [i for i in getattr(sampling, name) if not 0 <= i < vocab_size]
            if unknown:
                raise invalid(name, f"{unknown[0]} is not one of {vocab_size} token ids")

    def _sequence(
        self, request: Request, prompt: Prompt, matcher: Matcher | None, watch: Stopwatch
    ) -> Sequence:
        num_left = self._info.max_context_tokens - len(prompt.token_ids)
        if num_left < 1:
            raise invalid(
                "messages",
                f"{len(prompt.token_ids)} tokens do not fit the model's context"
                f" of {self._info.max_context_tokens}, answer included",
            )
        return Sequence(
            id=request.id,
            prompt=prompt,
            sampling=request.sampling,
            max_new_tokens=min(request.sampling.max_tokens, num_left),
            stop_token_ids=self._adapter.rules.stop_token_ids.union(
                request.sampling.stop_token_ids
            ),
            detokenizer=Detokenizer(
                self._adapter.tokenizer.decode if matcher is None else self._vocabulary.text,
                request.sampling.stop,
            ),
            outbox=asyncio.Queue(),
            tenant=request.tenant,
            digests=page_digests(prompt, request.tenant) if self._is_batched else (),
            matcher=matcher,
            watch=watch,
        )

    def _load_model(self) -> None:
        device = _device(self._settings.device)
        dtype = _dtype(self._settings.dtype, device)
        self._adapter = load_model(self._model.path, device=device, dtype=dtype)
        parameters = list(self._adapter.model.parameters())
        num_parameters = sum(p.numel() for p in parameters)
        weight_bytes = sum(p.nbytes for p in parameters)
        cache_bytes = self._make_runner()
        rules = self._adapter.rules
        self._vocabulary = Vocabulary(
            self._adapter.tokenizer, self._adapter.text_config.vocab_size, rules.stop_token_ids
        )
        self._guides = Guides(self._vocabulary, self._preparers)
        self._sampler = Sampler(rules, device, self._vocabulary)
        self._info = EngineInfo(
            model=self._model.name or Path(self._model.path).resolve().name,
            engine="native",
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            num_parameters=num_parameters,
            weight_bytes=weight_bytes,
            cache_bytes=cache_bytes,
            max_context_tokens=self._runner.max_context_tokens,
            max_running=self._scheduler.num_free_slots,
            is_batched=self._is_batched,
        )
        self._publish_load()

    def _make_runner(self) -> int:
        """The runner and its scheduler; the bytes of its cache.

        A model that the engine would answer for wrongly is served by its own forward pass.
        """
        try:
            runner = runner_kind(self._adapter.model.device)(self._adapter, self._settings)
        except ValueError as error:
            raise ModelError(f"engine.cache_mib is too small: {error}") from error
        try:
            with torch.inference_mode():
                check_batching(self._adapter, runner)
        except NotBatchedError as error:
            _log.warning("this model cannot be batched, requests run one at a time: %s", error)
            runner.close()
            serial = SerialRunner(self._adapter)
            self._runner: StepRunner | SerialRunner = serial
            self._is_batched = False
            self._scheduler = Scheduler(1, PagedMemory(num_pages(serial.max_context_tokens)))
            return 0
        self._runner = runner
        self._is_batched = True
        self._scheduler = Scheduler(runner.max_running, runner.memory(), runner.step_tokens)
        return runner.cache.num_bytes


def runner_kind(device: torch.device) -> type[Runner] | type[PagedRunner]:
    """The runner of a device: attention of a CPU wants keys in one piece, that of a GPU pages."""
    return PagedRunner if device.type == "cuda" else Runner


def _begun(plan: Plan) -> list[Outcome]:
    """Begun for each whose first step this is."""
    new = [prefill.sequence for prefill in plan.prefills if not prefill.sequence.has_begun]
    for sequence in new:
        sequence.has_begun = True
    return [(sequence, Begun()) for sequence in new]


def _hand_out(outcomes: Iterable[Outcome]) -> None:
    for sequence, outcome in outcomes:
        sequence.outbox.put_nowait(outcome)


def _unavailable() -> ServeError:
    return ServeError(Code.UNAVAILABLE, "the engine is closed", retry_after_s=RETRY_S)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("engine.device is cuda, and there is no such device here")
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "float32" if device.type == "cpu" else "float16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype
