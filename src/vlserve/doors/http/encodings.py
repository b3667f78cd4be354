"""Bodies that come compressed: undone piece by piece, so that whoever reads them bounds them."""

import zlib
from collections.abc import Iterator
from typing import Final

from vlserve.errors import Code, ServeError

ACCEPTED: Final = "gzip, deflate"
# Of what is undone at a time: a bomb is a thousand times as long as it came.
_PIECE_BYTES: Final = 256 * 1024
_WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": zlib.MAX_WBITS}
_SHOWN: Final = 40  # characters of what the caller wrote


class UnknownEncoding(Exception):  # noqa: N818
    """A body in an encoding that is not undone here. The text names it."""


class Decoding:
    """One body in gzip, of one member, or in deflate.

    Raises UnknownEncoding where `encoding`, a Content-Encoding, is another one, or more than one.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()
        if self._encoding not in _WINDOWS:
            raise UnknownEncoding(encoding[:_SHOWN])
        self._stream = zlib.decompressobj(_WINDOWS[self._encoding])
        self._is_empty = True

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds, of at most 256 KiB each. Raises ServeError(INVALID_ARGUMENT)."""
        self._is_empty = self._is_empty and not data
        while data:
            if self._stream.eof:
                raise self._wrong("data after its end")
            try:
                piece = self._stream.decompress(data, _PIECE_BYTES)
            except zlib.error:
                raise self._wrong("data that is something else") from None
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            yield piece

    def end(self) -> None:
        """That was all of it. Raises ServeError(INVALID_ARGUMENT) where something is missing."""
        if not (self._stream.eof or self._is_empty):
            raise self._wrong("no end")

    def _wrong(self, what: str) -> ServeError:
        message = f"the body is said to be in {self._encoding} (Content-Encoding) and has {what}"
        return ServeError(Code.INVALID_ARGUMENT, message)
