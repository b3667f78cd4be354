"""Token rows as the processor and the chat template make them, with several questions a row."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from training.tokenizer import BOS, END, FAKE, IMAGE
from training.world import GRID

IMAGE_TOKENS = GRID * GRID
PREFIX = 0


@dataclass
class Row:
    """One training row: token ids, positions, segments, and the loss weight of each token.

    A token sees the earlier tokens of its own segment and of segment PREFIX. `pictures` are the
    indices of the pictures whose latents stand at the image tokens, in order.
    """

    pictures: tuple[int, ...]
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, ids: Sequence[int], segment: int, start: int, weight: float = 0.0) -> int:
        """Append `ids` at positions from `start` on; returns the position that follows."""
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.segments += [segment] * len(ids)
        self.weights += [weight] * len(ids)
        return start + len(ids)


class PromptWriter:
    """Writes rows with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._user = self._encode("User:")
        self._assistant = [END, *self._encode("\nAssistant:")]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _images(self, number: int) -> list[int]:
        return [FAKE, *([IMAGE] * IMAGE_TOKENS + [FAKE]) * number] if number else []

    def _answer(self, row: Row, question: list[int], answer: str, segment: int, at: int) -> int:
        at = row.add(question + self._assistant, segment, at)
        target = [*self._encode(f" {answer}"), END]
        return row.add(target, segment, at, len(target) ** -0.5)

    def packed(self, pictures: tuple[int, ...], turns: Sequence[tuple[str, str]]) -> Row:
        """Independent first turns, (question, answer) each, after one shared image prefix."""
        row = Row(pictures)
        prefix = [BOS, *self._user, *self._images(len(pictures))]
        start = row.add(prefix, PREFIX, 0)
        for segment, (question, answer) in enumerate(turns, PREFIX + 1):
            self._answer(row, self._encode(f" {question}"), answer, segment, start)
        return row

    def conversation(
        self, turns: Sequence[tuple[tuple[int, ...], str, str]], system: str = ""
    ) -> Row:
        """One conversation of (pictures, question, answer); each turn reads all before it."""
        row = Row(tuple(picture for pictures, _, _ in turns for picture in pictures))
        at = row.add([BOS], PREFIX, 0)
        if system:
            at = row.add([*self._encode(f"System: {system}"), END], PREFIX, at)
        for number, (pictures, question, answer) in enumerate(turns):
            opening = "\n" if number or system else ""
            words = self._encode(f"{opening}User:") if pictures else []
            at = row.add(words + self._images(len(pictures)), PREFIX, at)
            text = f" {question}" if pictures else f"{opening}User: {question}"
            at = self._answer(row, self._encode(text), answer, PREFIX, at)
        return row
