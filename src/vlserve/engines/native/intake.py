"""From a request to a sequence that can run: its prompt, its guide and its pictures' features."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TypeVar

from vlserve.engines.native.inbox import Inbox, unavailable
from vlserve.engines.native.loading import Loaded
from vlserve.engines.native.runners.faults import is_device_lost
from vlserve.engines.native.scheduling.pages import page_digests
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.text.detokenizer import Detokenizer
from vlserve.engines.native.text.guides import Guides
from vlserve.engines.native.text.matcher import Matcher
from vlserve.engines.native.vision.encoder import Encoder
from vlserve.engines.native.vision.feature_budget import FeatureBudget
from vlserve.engines.native.vision.image_cache import ImageCache
from vlserve.errors import ServeError, failed, invalid, too_long
from vlserve.models.prompt import Prompt, PromptImage
from vlserve.timings import Stage, Stopwatch
from vlserve.types import Image, Request, SamplingParams, TokenCount

# Threads that make prompts of requests (scaling pictures, mostly). More would take the
# processor from the step that everybody waits for.
NUM_PREPARERS = 2
_log = logging.getLogger(__name__)

Made = TypeVar("Made", Prompt, TokenCount)


class Intake:
    """Prepares requests of a loaded model until `inbox` is closed. Used by one event loop."""

    def __init__(self, loaded: Loaded, inbox: Inbox, image_cache_bytes: int) -> None:
        self._inbox = inbox
        self._runner = loaded.runner
        self._info = loaded.info
        self.vocabulary = loaded.vocabulary
        self._executor = ThreadPoolExecutor(NUM_PREPARERS, "vlserve-prepare")
        self.guides = Guides(loaded.vocabulary, self._executor)
        self.num_preparing = 0
        # As many tokens as the KV cache holds: whatever runs there has its features as well.
        self.features = FeatureBudget(loaded.runner.cache_tokens)
        self.adapter = loaded.adapter
        self.images = ImageCache(image_cache_bytes)
        self.encoder = Encoder(loaded.adapter, self.images, loaded.runner.tower_threads)

    async def start(self) -> None:
        """Start the vision tower's thread and the process that tries guides."""
        self.encoder.start()
        await self.guides.start()

    async def close(self) -> None:
        """Stop both. What they had not begun is cancelled."""
        self._executor.shutdown(wait=False)
        await asyncio.to_thread(self.encoder.close)
        await self.guides.close()

    @asynccontextmanager
    async def sequence(self, request: Request) -> AsyncIterator[Sequence]:
        """A sequence that can run as soon as the scheduler admits it. Its features count as held
        for as long as the context lasts. Raises ServeError as `Engine.generate` before its first
        Chunk."""
        watch = Stopwatch()
        watch.enter(Stage.PREPROCESS)
        # Before the pictures are looked at: a guide that is refused costs nothing more.
        matcher = await self._matcher(request)
        prompt = await self._prompt(request)
        # And before the vision tower, which takes longest: a prompt that cannot fit.
        self._refuse_long_prompt(prompt)
        # The pictures are in the prompt now.
        request = replace(request, messages=())
        watch.enter(Stage.ENCODE)
        # By object: one that the cache keeps is the same for all who ask about it, and one that it
        # does not is each request's own.
        sizes = {str(id(image)): image.num_tokens for image in prompt.images}
        async with AsyncExitStack() as held:
            with self._preparing(request, "its pictures"):
                await held.enter_async_context(self.features.hold(request.tenant, sizes))
            await self._see(request, prompt)
            watch.enter(Stage.PREPROCESS)
            sequence = self._sequence(request, prompt, matcher, watch)
            watch.enter(Stage.QUEUE)
            yield sequence

    async def count(self, request: Request) -> TokenCount:
        """What the prompt takes, made as any other; the vision tower sees none of its pictures."""
        return await self._make(request, lambda: self.adapter.count(request.messages))

    async def _matcher(self, request: Request) -> Matcher | None:
        self._inbox.refuse_if_closed()
        guide = request.sampling.guide
        return None if guide is None else await self.guides.matcher(guide)

    async def _prompt(self, request: Request) -> Prompt:
        self._refuse_unknown_tokens(request.sampling)

        def seen(picture: Image) -> PromptImage | None:
            return self.images.get(request.tenant, picture.key)

        return await self._make(request, lambda: self._runner.prepare(request.messages, seen))

    async def _make(self, request: Request, make: Callable[[], Made]) -> Made:
        """What `make` makes of a request on a thread of its own."""
        self._inbox.refuse_if_closed()
        self._refuse_long_text(request)

        def make_if_open() -> Made:
            self._inbox.refuse_if_closed()
            return make()

        with self._preparing(request, "its prompt"):
            return await asyncio.get_running_loop().run_in_executor(self._executor, make_if_open)

    async def _see(self, request: Request, prompt: Prompt) -> None:
        """Returns when every picture of a prompt has its features."""
        with self._preparing(request, "its pictures"):
            try:
                for image in prompt.images:
                    if image.features is None:
                        await asyncio.wrap_future(self.encoder.submit(request.tenant, image))
            except asyncio.CancelledError:
                # Ours, unless the encoder was closed underneath.
                if self._inbox.is_closed:
                    raise unavailable() from None
                raise
            except Exception as error:
                if not is_device_lost(error, self.adapter.model.device):
                    raise
                self._inbox.fail(error)
                raise unavailable() from error
            num_rows = sum(i.features.num_tokens for i in prompt.images if i.features)
            if num_rows != len(prompt.places):
                raise RuntimeError(f"{num_rows} features for {len(prompt.places)} tokens")

    @contextmanager
    def _preparing(self, request: Request, what: str) -> Iterator[None]:
        """It waits meanwhile; what fails is logged, and is INTERNAL to the caller."""
        self.num_preparing += 1
        try:
            yield
        except ServeError:
            raise
        except Exception as error:
            _log.exception("request %s failed at %s", request.id, what)
            raise failed() from error
        finally:
            self.num_preparing -= 1

    def _refuse_long_text(self, request: Request) -> None:
        """Before it is tokenised, which takes long and cannot be stopped."""
        texts = [p for message in request.messages for p in message.content if isinstance(p, str)]
        num_characters = sum(map(len, texts))
        least = -(-num_characters // self.adapter.longest_token)
        if least > self._info.max_context_tokens:
            raise too_long(self._info.max_context_tokens, least, is_exact=False)

    def _refuse_long_prompt(self, prompt: Prompt) -> None:
        num_tokens, most = len(prompt.token_ids), self._info.max_context_tokens
        if num_tokens >= most:
            raise too_long(most, num_tokens)

    def _refuse_unknown_tokens(self, sampling: SamplingParams) -> None:
        vocab_size = self.adapter.text_config.vocab_size
        for name in ("logit_bias", "stop_token_ids"):
            unknown = [i for i in getattr(sampling, name) if not 0 <= i < vocab_size]
            if unknown:
                raise invalid(name, f"{unknown[0]} is not one of {vocab_size} token ids")

    def _sequence(
        self, request: Request, prompt: Prompt, matcher: Matcher | None, watch: Stopwatch
    ) -> Sequence:
        num_left = self._info.max_context_tokens - len(prompt.token_ids)
        return Sequence(
            id=request.id,
            prompt=prompt,
            sampling=request.sampling,
            max_new_tokens=min(request.sampling.max_tokens, num_left),
            stop_token_ids=self.adapter.rules.stop_token_ids.union(request.sampling.stop_token_ids),
            detokenizer=Detokenizer(
                self.adapter.tokenizer.decode if matcher is None else self.vocabulary.text,
                request.sampling.stop,
            ),
            outbox=asyncio.Queue(),
            tenant=request.tenant,
            digests=page_digests(prompt, request.tenant),
            matcher=matcher,
            watch=watch,
        )
