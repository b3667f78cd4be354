"""The state of one request inside the engine. Knows no torch."""

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
    """A prompt, the answer so far and the outbox that its reader waits at.

    `max_new_tokens` is what the request and the model's context allow. `digests` are those of the
    prompt's full pages. While it runs it owns a `slot` and `pages`; of its tokens the first
    `num_computed` are in the KV cache, `num_cached` of them since others had computed them. It
    `has_begun` once its reader was told so. `matcher` holds the answer to its guide; `logprobs`
    are those of the token that comes next, where they are asked for. `watch` is in the queue when
    it is handed over.
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
    _num_kept: int = 0

    @property
    def num_tokens(self) -> int:
        """Prompt and answer."""
        return len(self.prompt.token_ids) + len(self.token_ids)

    @property
    def all_token_ids(self) -> tuple[int, ...]:
        """Prompt and answer."""
        return (*self.prompt.token_ids, *self.token_ids)

    @property
    def is_decoding(self) -> bool:
        """Whether the newest token of the answer is all that is left to compute."""
        return bool(self.token_ids) and self.num_computed == self.num_tokens - 1

    @property
    def known_digests(self) -> tuple[bytes, ...]:
        """Of the pages that need not be computed if others have: one token is left at least, for
        the logits that follow it."""
        return self.digests[: (self.num_tokens - 1) // PAGE]

    def come_in(self, num_known: int) -> None:
        """It has room now, and the first `num_known` tokens are there. Of one that comes in again
        they are its own, and count as nothing that others had computed."""
        self.num_computed = num_known
        self._num_kept = num_known // PAGE
        if not self.has_begun:
            self.num_cached = num_known
        self.watch.enter(Stage.DECODE if self.token_ids else Stage.PREFILL)

    def new_pages(self) -> range:
        """The full pages of the prompt that were computed since the last call."""
        start = self._num_kept
        self._num_kept = max(start, min(self.num_computed // PAGE, len(self.digests)))
        return range(start, self._num_kept)

    def restart(self) -> None:
        """It has lost its room: all its tokens are to be computed again."""
        self.slot = None
        self.num_computed = 0
        self.watch.enter(Stage.QUEUE)

    def append(self, token_id: int) -> Chunk:
        """Take the next token of the answer; what there is to say. It may be the last."""
        is_first = not self.token_ids
        if is_first:
            self.watch.enter(Stage.DECODE)
        self.token_ids.append(token_id)
        text = self.detokenizer.push(token_id)
        finish = self._finish_reason(token_id)
        if finish is None:
            timings = self.watch.timings() if is_first else None
            return Chunk(text, (token_id,), logprobs=self.logprobs, timings=timings)
        text += self.detokenizer.finish()
        if self.detokenizer.is_stopped:
            finish = FinishReason.STOP
        return Chunk(
            text,
            (token_id,),
            finish,
            self._usage(),
            logprobs=self.logprobs,
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
