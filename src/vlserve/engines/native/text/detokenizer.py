"""Token ids to text as they come: never half a character, never a part of a stop string."""

from collections.abc import Callable, Sequence

from vlserve.engines.stop_strings import StopStrings

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one answer, piece by piece.

    All pieces together are `decode` of all ids, up to the first stop string in it. `decode` maps
    ids to text as the model's tokenizer does, special tokens left out.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = StopStrings(stop)
        # What is decoded begins with tokens whose text is out already: a decoder may treat the
        # beginning of a text in a way of its own, and must not meet one here.
        self._window: list[int] = []
        self._num_known = 0
        self._known = ""

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stop.is_stopped

    def push(self, token_id: int) -> str:
        """The text that is certain now; nothing more once a stop string has come."""
        self._window.append(token_id)
        text = self._decode(self._window)
        return "" if text.endswith(INCOMPLETE) else self._stop.push(self._new(text))

    def finish(self) -> str:
        """The rest: what waited for a character or a stop string to become complete."""
        return self._stop.push(self._new(self._decode(self._window))) + self._stop.finish()

    def _new(self, text: str) -> str:
        new = text[len(self._known) :]
        if new:
            del self._window[: self._num_known]
            self._num_known = len(self._window)
            self._known = self._decode(self._window)
        return new
