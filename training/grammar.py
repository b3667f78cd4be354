"""Phrase patterns: `[a|b]` is a choice, `@name` a macro, `{slot}` a blank that the caller fills."""

import itertools
import random
import re

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_MACRO = re.compile(r"@([a-z]+)")
_SPACES = re.compile(r"\s+")

MACROS = {
    "pic": "[picture|picture|image|image|photo|drawing|scene]",
    "in": "[|in the @pic|in the @pic|in this @pic|here|shown]",
    "colour": "[colour|color]",
    "thing": "[shape|shape|object|thing|figure]",
    "things": "[shapes|shapes|objects|things|figures]",
    "whats": "[what is|what's|what's|what is|tell me|name|give|give me|state]",
    "place": "[place|position|location|spot]",
    "written": "[written|printed|shown|displayed]",
    "pics": "[pictures|pictures|images|photos|drawings]",
}


def _macros(pattern: str) -> str:
    while _MACRO.search(pattern):
        pattern = _MACRO.sub(lambda match: MACROS[match.group(1)], pattern)
    return pattern


def phrase(pattern: str, rng: random.Random, **slots: str) -> str:
    """One phrase of `pattern`, every choice drawn with `rng` and every blank filled."""
    text = _macros(pattern)
    while _CHOICE.search(text):
        text = _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), text)
    return _SPACES.sub(" ", text.format(**slots)).strip()


def phrases(pattern: str) -> set[str]:
    """Every phrase of `pattern`, blanks left as they are."""
    text = _macros(pattern)
    match = _CHOICE.search(text)
    if match is None:
        return {_SPACES.sub(" ", text).strip()}
    head, tail = text[: match.start()], text[match.end() :]
    options = dict.fromkeys(match.group(1).split("|"))
    return set(itertools.chain.from_iterable(phrases(head + option + tail) for option in options))
