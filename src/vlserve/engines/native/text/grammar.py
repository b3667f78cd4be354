"""Guides as grammars, and what they may cost. Runs in the worker too, so it imports little."""

import json
import random
import re
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from vlserve.engines.native.text.closed_schema import close_objects

# Of one step of one answer, which everybody waits for: about 10 ms and 50 MB.
LIMITS: Final = LLParserLimits(
    step_lexer_fuel=100_000, max_lexer_states=50_000, verbose_errors=False
)
TRIAL_STEPS: Final = 48
MAX_REASON_CHARACTERS: Final = 200
# A schema may set these for itself, so each is set here. Whitespace is bounded: a model that may
# write spaces for ever sometimes does.
_JSON: Final = {
    "whitespace_flexible": True,
    "whitespace_pattern": r"\x20|\x0A\x20{0,16}",
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
}


def trie(tokenizer: str, size: int, stop_token_ids: list[int]) -> LLTokenizer:
    """The tokens of a tokenizer's JSON, `size` of them in all. Where the model has no stop token,
    the library's guess ends a guided answer. Raises ValueError where bytes cannot be told."""
    return LLTokenizer(tokenizer, n_vocab=size, eos_token=stop_token_ids or None)


def json_grammar(schema: str) -> str:
    """JSON that fits a schema, its objects closed as `closed` has it. Raises ValueError for what is
    no JSON object."""
    # The library reads it first: what is nested too deep for it never gets to where it is changed.
    _grammar(schema)
    return _grammar(json.dumps(close_objects(json.loads(schema))))


def _grammar(schema: str) -> str:
    return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON)  # type: ignore[arg-type]


def regex_grammar(pattern: str) -> str:
    """Texts that the whole pattern matches."""
    return LLMatcher.grammar_from_regex(pattern)


def choice_grammar(choices: tuple[str, ...]) -> str:
    """One of the texts, whatever characters they hold."""
    return regex_grammar("|".join("".join(map(_escaped, choice)) for choice in choices))


def matcher(vocabulary: LLTokenizer, grammar: str) -> LLMatcher:
    """At the beginning of an answer. Never raises: it says itself what is wrong with it."""
    return LLMatcher(vocabulary, grammar, log_level=0, limits=LIMITS)


def trial(vocabulary: LLTokenizer, grammar: str) -> str:
    """Why no answer can follow a grammar, "" where one can: some steps are taken for a trial.

    A grammar may be read in no time and be too much at its second token.
    """
    walker = matcher(vocabulary, grammar)
    rng = random.Random(0)  # noqa: S311 - any way through will do
    for _ in range(TRIAL_STEPS):
        if walker.is_stopped():
            break
        allowed = bytearray(walker.compute_bitmask())
        for token_id in vocabulary.eos_tokens:
            allowed[token_id // 8] &= ~(1 << token_id % 8)
        if not any(allowed):
            break
        walker.consume_token(_some_bit(allowed, rng.randrange(len(allowed))))
    if walker.get_error().startswith("NoExtension"):
        return "no answer fits it"
    return reason(walker.get_error()) if walker.is_error() else ""


def reason(error: str) -> str:
    """The compiler's word on the caller's own text, as one short line."""
    if "panic" in error:
        return "cannot be followed"
    said = re.split(r"\(in regex\): |\nerror: ", error)[-1].split("\n")[0]
    return "".join(filter(str.isprintable, said))[:MAX_REASON_CHARACTERS] or "cannot be followed"


def _some_bit(bits: bytearray, start: int) -> int:
    """A bit that is set, the first from byte `start` on or else from the beginning."""
    rest = bits[start:].lstrip(b"\0") or bits.lstrip(b"\0")
    return 8 * (len(bits) - len(rest)) + (rest[0] & -rest[0]).bit_length() - 1


def _escaped(character: str) -> str:
    is_plain = character.isascii() and character.isalnum()
    return character if is_plain else rf"\x{{{ord(character):x}}}"
