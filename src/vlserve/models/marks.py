"""Which tokens are a model's own, so that no text of a caller becomes one."""

import re
from typing import Any

from tokenizers import AddedToken

_NUMBER = re.compile("[0-9]+")
# Letters within brackets of some kind. Other added tokens are words, space or punctuation.
_MARK = re.compile(r"[^\w\s]\w.*[^\w\s]")


def own_marks(processor: Any, config: Any, written: str) -> frozenset[str]:
    """The added tokens of a tokenizer that a caller's text must never become.

    Those that its file calls special; and, as not every file does, those that the processor or
    the model's configuration has a name for, and those that stand in `written`, a conversation
    as the chat template and the processor write it, with all that differ from one of these in
    numbers alone: the place of a tile, say.
    """
    tokenizer = processor.tokenizer
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    ids = [value for name, value in vars(config).items() if name.endswith(("_id", "_index"))]
    names = [str(v) for v in vars(processor).values() if isinstance(v, str | AddedToken)]
    named = {*tokenizer.all_special_tokens, *names}
    marks = {
        token.content
        for token_id, token in added.items()
        if token.special or token_id in ids or token.content in named
    }
    others = {token.content for token in added.values() if _MARK.search(token.content)}
    forms = {_form(content) for content in others if content in written}
    return frozenset(marks | {content for content in others if _form(content) in forms})


def _form(content: str) -> str:
    return _NUMBER.sub("0", content)
