"""Token ids to text as they come: never half a character, never a part of a stop string."""

from collections.abc import Callable, Iterable, Sequence

from vlserve.engines.native.text.pieces import Pieces
from vlserve.engines.stop_strings import StopStrings
from vlserve.types import TokenLogprob

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one answer, piece by piece.

    All pieces together are `decode` of all ids, up to the first stop string in it. `decode` maps
    ids to text as the model's tokenizer does, special tokens left out.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = StopStrings(stop)
        self._pieces = Pieces()
        # What is decoded begins with tokens whose text is out already: a decoder may treat the
        # beginning of a text in a way of its own, and must not meet one here.
        self._window: list[int] = []
        self._num_known = 0
        self._known = ""

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stop.is_stopped

    def push(self, token_id: int, logprobs: Iterable[TokenLogprob] = ()) -> str:
        """The text that is certain now; nothing more once a stop string has come. `logprobs` has
        the token's own, where the request asks for them."""
        asked = tuple(logprobs)
        before = self._decode(self._window) if asked else ""
        self._window.append(token_id)
        text = self._decode(self._window)
        # A special token is in no text, neither behind others nor alone.
        if text != before or self._decode([token_id]):
            for token in asked:
                self._pieces.add(token)
        return "" if text.endswith(INCOMPLETE) else self._shown(self._stop.push(self._new(text)))

    def finish(self) -> str:
        """The rest: what waited for a character or a stop string to become complete."""
        rest = self._stop.push(self._new(self._decode(self._window)))
        return self._shown(rest + self._stop.finish())

    def logprobs(self, *, is_last: bool = False) -> tuple[TokenLogprob, ...]:
        """Of the tokens that are in the text so far and were not taken, with the bytes that each
        has there. Those of all calls, the last one after `finish`, make exactly the text."""
        return self._pieces.take(is_last=is_last)

    def _shown(self, text: str) -> str:
        self._pieces.show(text)
        return text

    def _new(self, text: str) -> str:
        new = text[len(self._known) :]
        self._pieces.read(new)
        if new:
            del self._window[: self._num_known]
            self._num_known = len(self._window)
            self._known = self._decode(self._window)
        return new
