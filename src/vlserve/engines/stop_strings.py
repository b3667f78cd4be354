"""Ends a text at a stop string and never lets a part of one out."""

from collections.abc import Sequence


class StopStrings:
    """Passes text on as it comes, up to the first of `stop` in it."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """What may be shown now: all but an end that could begin a stop string.

        Once a stop string has come, `is_stopped`, and nothing is shown any more.
        """
        if self.is_stopped:
            return ""
        text = self._held + text
        starts = [at for at in map(text.find, self._stop) if at >= 0]
        if starts:
            self.is_stopped = True
            return text[: min(starts)]
        num_held = max((_overlap(text, stop) for stop in self._stop), default=0)
        shown = len(text) - num_held
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """What was held back and became no stop string."""
        held, self._held = self._held, ""
        return "" if self.is_stopped else held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that could begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
