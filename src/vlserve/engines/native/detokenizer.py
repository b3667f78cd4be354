"""Token ids to text as they come: never half a character, never a part of a stop string."""

from collections.abc import Callable, Sequence

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one answer, piece by piece.

    All pieces together are `decode` of all ids, up to the first stop string in it. `decode` maps
    ids to text as the model's tokenizer does, special tokens left out.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = stop
        # Decoding begins at a token whose text is known, not at the first that is not: decoders
        # treat the beginning of a text in ways of their own.
        self._window: list[int] = []
        self._num_read = 0
        self._read_text = ""
        self._held = ""
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """The text that is certain now. After a stop string, `is_stopped` and nothing more."""
        self._window.append(token_id)
        text = self._decode(self._window)
        if text.endswith(INCOMPLETE):
            return ""
        return self._take(text)

    def finish(self) -> str:
        """The rest: what waited for a character or a stop string to become complete."""
        certain = self._take(self._decode(self._window)) if self._window else ""
        rest, self._held = self._held, ""
        return certain if self.is_stopped else certain + rest

    def _take(self, text: str) -> str:
        new = text[len(self._read_text) :]
        if new:
            del self._window[: self._num_read]
            self._num_read = len(self._window)
            self._read_text = self._decode(self._window)
        if self.is_stopped:
            return ""
        text = self._held + new
        ends = [at for at in map(text.find, self._stop) if at >= 0]
        if ends:
            self.is_stopped = True
            self._held = ""
            return text[: min(ends)]
        num_held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that could begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
