"""Holds answers to their guides. Knows no torch."""

import asyncio
from collections import OrderedDict
from concurrent.futures import Executor
from typing import Final

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from vlserve.engines.native import grammar
from vlserve.engines.native.guide_check import GuideCheck
from vlserve.engines.native.vocabulary import Vocabulary
from vlserve.errors import invalid
from vlserve.types import Guide, GuideKind

# Guides that are known to be good, each at most MAX_GUIDE_CHARACTERS.
MAX_KNOWN: Final = 256


class GuideError(Exception):
    """A grammar cannot be followed any further."""


class Matcher:
    """How far one answer has followed its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_finished(self) -> bool:
        """Whether nothing can follow any more."""
        return self._matcher.is_stopped()

    def fill(self, mask: npt.NDArray[np.int32]) -> None:
        """Set the bits of the tokens that may come next in `i32[ceil(size / 32)]`, contiguous;
        stop tokens where the answer may end. Raises GuideError."""
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._raise_error()

    def advance(self, token_id: int) -> None:
        """Take the next token. Raises GuideError for one that may not come."""
        self._matcher.consume_token(token_id)
        self._raise_error()

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise GuideError(self._matcher.get_error())


class Guides:
    """Makes a Matcher for each guided request, of guides that the worker has found good."""

    def __init__(self, vocabulary: Vocabulary, preparers: Executor) -> None:
        self._vocabulary = vocabulary
        self._preparers = preparers
        self._check = GuideCheck(vocabulary)
        self._known: OrderedDict[Guide, None] = OrderedDict()
        self._trials: dict[Guide, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Warm the worker, where answers can be guided at all."""
        if self._vocabulary.trie is not None:
            await self._check.start()

    async def close(self) -> None:
        """Let go of the worker."""
        await self._check.close()

    async def matcher(self, guide: Guide) -> Matcher:
        """At the beginning of an answer. Raises ServeError: INVALID_ARGUMENT naming `guide` for
        one that is wrong, unsupported or too expensive."""
        trie = self._vocabulary.trie
        if trie is None:
            raise invalid("guide", "this model's tokenizer does not allow one")
        loop = asyncio.get_running_loop()
        source = await loop.run_in_executor(self._preparers, _grammar, guide)
        await self._admit(guide, source)
        return Matcher(await loop.run_in_executor(self._preparers, grammar.matcher, trie, source))

    async def _admit(self, guide: Guide, source: str) -> None:
        if guide not in self._known:
            # Answers to one request come with the same guide at once, and share the one trial.
            trial = self._trials.get(guide)
            if trial is None:
                trial = self._trials[guide] = asyncio.create_task(self._check.check(source))
                trial.add_done_callback(lambda _: self._trials.pop(guide))
            await asyncio.shield(trial)
        self._known[guide] = None
        self._known.move_to_end(guide)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


def _grammar(guide: Guide) -> str:
    match guide.kind:
        case GuideKind.REGEX:
            return grammar.regex_grammar(guide.text)
        case GuideKind.CHOICE:
            return grammar.choice_grammar(guide.choices)
        case GuideKind.JSON_OBJECT:
            return grammar.json_grammar('{"type": "object"}')
        case GuideKind.JSON_SCHEMA:
            try:
                return grammar.json_grammar(guide.text)
            except ValueError as error:
                message = f"is no JSON schema: {grammar.reason(str(error))}"
                raise invalid("guide", message) from None
