"""The state of one request inside the engine. Knows no torch."""

import asyncio
from dataclasses import dataclass, field

from vlserve.engines.native.detokenizer import Detokenizer
from vlserve.engines.native.guide import Matcher
from vlserve.errors import ServeError
from vlserve.models.prompt import Prompt
from vlserve.types import Chunk, FinishReason, SamplingParams, TokenLogprob, Usage


@dataclass(eq=False, slots=True, weakref_slot=True)
class Sequence:
    """A prompt, the answer so far and the outbox that its reader waits at.

    `max_new_tokens` is what the request and the model's context allow. `slot` is the row of the
    KV cache it owns while it runs. `position_shift` is what lies between the number of tokens
    before a token of the answer and its rotary position. `matcher` holds the answer to its guide;
    `logprobs` are those of the token that comes next, where they are asked for.
    """

    id: str
    prompt: Prompt
    sampling: SamplingParams
    max_new_tokens: int
    stop_token_ids: frozenset[int]
    detokenizer: Detokenizer
    outbox: asyncio.Queue[Chunk | ServeError]
    token_ids: list[int] = field(default_factory=list)
    slot: int | None = None
    position_shift: int = 0
    matcher: Matcher | None = None
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Prompt and answer."""
        return len(self.prompt.token_ids) + len(self.token_ids)

    def append(self, token_id: int) -> Chunk:
        """Take the next token of the answer; what there is to say. It may be the last."""
        self.token_ids.append(token_id)
        text = self.detokenizer.push(token_id)
        finish = self._finish_reason(token_id)
        if finish is None:
            return Chunk(text, (token_id,), logprobs=self.logprobs)
        text += self.detokenizer.finish()
        if self.detokenizer.is_stopped:
            finish = FinishReason.STOP
        return Chunk(text, (token_id,), finish, self._usage(), logprobs=self.logprobs)

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
        )
