"""The state of one request in the engine. Imports no torch."""

import asyncio
from dataclasses import dataclass, field

from vlserve.engines.base import Begun
from vlserve.engines.native.scheduling.pages import PAGE
from vlserve.engines.native.text.detokenizer import Detokenizer
from vlserve.engines.native.text.matcher import Matcher
from vlserve.errors import ServeError
from vlserve.models.prompt import Prompt
from vlserve.timings import Stage, Stopwatch
from vlserve.types import Chunk, FinishReason, SamplingParams, TokenLogprob, Usage


@dataclass(eq=False, slots=True, weakref_slot=True)
class Sequence:
    """A prompt, its answer so far, and the outbox that the reader of the answer awaits.

    `max_new_tokens` is the bound from the request and the model's context. `digests` are those of
    the prompt's full pages. A running sequence owns a `slot` and `pages`. Its first `num_computed`
    tokens are in the KV cache; `num_cached` of them came from the prefix cache at its first
    admission. `has_begun` is set when the reader has been told that the sequence runs. `matcher`
    constrains the answer to its guide. `logprobs` are those of the next token, if requested.
    `watch` is in Stage.QUEUE when the sequence is added to the scheduler.
    """

    id: str
    prompt: Prompt
    sampling: SamplingParams
    max_new_tokens: int
    stop_token_ids: frozenset[int]
    detokenizer: Detokenizer
    outbox: asyncio.Queue[Chunk | Begun | ServeError]
    tenant: str = ""
    digests: tuple[bytes, ...] = ()
    token_ids: list[int] = field(default_factory=list)
    slot: int | None = None
    pages: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_cached: int = 0
    has_begun: bool = False
    matcher: Matcher | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    watch: Stopwatch = field(default_factory=Stopwatch)
    _num_published: int = 0

    @property
    def num_tokens(self) -> int:
        """The length of prompt and answer."""
        return len(self.prompt.token_ids) + len(self.token_ids)

    @property
    def all_token_ids(self) -> tuple[int, ...]:
        """The tokens of prompt and answer."""
        return (*self.prompt.token_ids, *self.token_ids)

    @property
    def is_decoding(self) -> bool:
        """Whether only the newest token of the answer is not computed yet."""
        return bool(self.token_ids) and self.num_computed == self.num_tokens - 1

    @property
    def cacheable_digests(self) -> tuple[bytes, ...]:
        """The digests of pages that may come from the prefix cache. At least one token is left to
        compute, for the logits of the next one."""
        return self.digests[: (self.num_tokens - 1) // PAGE]

    def admit(self, num_cached: int) -> None:
        """Mark the sequence as running, with its first `num_cached` tokens from the prefix cache.

        After a preemption the cached tokens are its own, so `num_cached` keeps its first value.
        """
        self.num_computed = num_cached
        self._num_published = num_cached // PAGE
        if not self.has_begun:
            self.num_cached = num_cached
        self.watch.enter(Stage.DECODE if self.token_ids else Stage.PREFILL)

    def take_new_pages(self) -> range:
        """The indices of the prompt's full pages computed since the last call."""
        start = self._num_published
        self._num_published = max(start, min(self.num_computed // PAGE, len(self.digests)))
        return range(start, self._num_published)

    def preempt(self) -> None:
        """Mark the sequence as waiting; all its tokens are computed again after admission."""
        self.slot = None
        self.num_computed = 0
        self.watch.enter(Stage.QUEUE)

    def append(self, token_id: int) -> Chunk:
        """Append a token to the answer. Returns the chunk to send, which may be the last."""
        is_first = not self.token_ids
        if is_first:
            self.watch.enter(Stage.DECODE)
        self.token_ids.append(token_id)
        text = self.detokenizer.push(token_id, self.logprobs)
        finish = self._finish_reason(token_id)
        if finish is None:
            usage, timings = (self._usage(), self.watch.timings()) if is_first else (None, None)
            logprobs = self.detokenizer.logprobs()
            return Chunk(text, (token_id,), None, usage, logprobs=logprobs, timings=timings)
        text += self.detokenizer.finish()
        if self.detokenizer.is_stopped:
            finish = FinishReason.STOP
        return Chunk(
            text,
            (token_id,),
            finish,
            self._usage(),
            logprobs=self.detokenizer.logprobs(is_last=True),
            timings=self.watch.timings(),
        )

    def _finish_reason(self, token_id: int) -> FinishReason | None:
        if self.detokenizer.is_stopped or token_id in self.stop_token_ids:
            return FinishReason.STOP
        if self.matcher is not None and self.matcher.is_finished:
            return FinishReason.STOP
        if len(self.token_ids) >= self.max_new_tokens:
            return FinishReason.LENGTH
        return None

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.prompt.token_ids),
            image_tokens=self.prompt.num_image_tokens,
            completion_tokens=len(self.token_ids),
            cached_tokens=min(self.num_cached, len(self.prompt.token_ids)),
        )
