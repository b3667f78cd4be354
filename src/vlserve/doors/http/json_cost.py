"""What makes JSON take long to read, counted while it comes.

A picture in base64 is read as fast as memory is copied. Many values are not: 45 MiB of short keys
take ten seconds, in which nobody else is served.
"""

from typing import Final

from vlserve.errors import Code, ServeError

# Each value but the first has one of these in front of it, or around it. Longer texts than a
# prompt may have hold fewer of them.
_MARKS: Final = b",[{"
MAX_MARKS: Final = 2**18
# Escapes and characters beyond ASCII: some write one for each "/" of base64.
_SLOW: Final = b"\\" + bytes(range(0x80, 0x100))
MAX_SLOW: Final = 2**22


class JsonCost:
    """Of one body."""

    def __init__(self) -> None:
        self._num_marks = 0
        self._num_slow = 0

    def add(self, piece: bytes) -> None:
        """A piece more. Raises ServeError(INVALID_ARGUMENT) where it is too much."""
        self._num_marks += len(piece) - len(piece.translate(None, _MARKS))
        self._num_slow += len(piece) - len(piece.translate(None, _SLOW))
        if self._num_marks > MAX_MARKS:
            raise _costly(f"{MAX_MARKS} values or commas")
        if self._num_slow > MAX_SLOW:
            raise _costly(f"{MAX_SLOW} escapes and bytes beyond ASCII")


def _costly(what: str) -> ServeError:
    return ServeError(Code.INVALID_ARGUMENT, f"the body holds more than {what}")
