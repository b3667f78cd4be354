"""The tokens of an answer with the bytes that each has in its text. Knows no torch."""

from dataclasses import replace

from vlserve.types import TokenLogprob


class Pieces:
    """Tokens whose bytes make exactly the text that is shown.

    A token that is not in the text, such as a special one or one of a stop string, is none of them;
    one that is there in part has that part: of the first word the space that the text begins
    without, of the last what a stop string leaves of it.
    """

    def __init__(self) -> None:
        self._unread: list[TokenLogprob] = []  # whose text is not known yet
        self._read: list[TokenLogprob] = []  # cut to their text, which may not be shown yet
        self._num_shown = 0  # bytes that were shown and whose tokens were not taken

    def add(self, token: TokenLogprob) -> None:
        """The next token."""
        self._unread.append(token)

    def read(self, text: str) -> None:
        """What the tokens that were added since the last time make of the answer."""
        data = text.encode()
        # From the end, as what a decoder leaves out is at the beginning.
        for i in range(len(self._unread) - 1, -1, -1):
            token = self._unread[i]
            begin = max(0, len(data) - len(token.data)) if i else 0
            self._unread[i] = replace(token, data=data[begin:])
            data = data[:begin]
        self._read += [token for token in self._unread if token.data]
        self._unread.clear()

    def show(self, text: str) -> None:
        """More of the text is shown."""
        self._num_shown += len(text.encode())

    def take(self, *, is_last: bool = False) -> tuple[TokenLogprob, ...]:
        """Tokens all of which is shown; at last the shown part of one more."""
        taken: list[TokenLogprob] = []
        while self._read and len(self._read[0].data) <= self._num_shown:
            taken.append(self._read.pop(0))
            self._num_shown -= len(taken[-1].data)
        if is_last and self._num_shown and self._read:
            taken.append(replace(self._read[0], data=self._read[0].data[: self._num_shown]))
        return tuple(taken)
