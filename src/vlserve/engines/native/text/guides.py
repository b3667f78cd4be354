"""Holds answers to their guides. Knows no torch."""

import asyncio
from collections import OrderedDict
from concurrent.futures import Executor
from typing import Final

from vlserve.engines.native.text import grammar
from vlserve.engines.native.text.guide_check import GuideCheck
from vlserve.engines.native.text.matcher import Matcher
from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.errors import invalid
from vlserve.types import Guide, GuideKind

# Guides that are known to be good, each at most MAX_GUIDE_CHARACTERS.
MAX_KNOWN: Final = 256


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
