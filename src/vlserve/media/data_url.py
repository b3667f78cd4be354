"""`data:` URLs (RFC 2397): the bytes that are in them."""

import asyncio
import binascii
from typing import Final
from urllib.parse import unquote_to_bytes

from vlserve.media.errors import Refused, too_many_bytes

SCHEME: Final = "data:"
MAX_ESCAPED: Final = 2**18  # characters: to read escapes takes a hundred times as long as base64
_MAX_HEAD: Final = 1024
# A multiple of 4, so that every piece but the last is whole by itself.
_PIECE: Final = 2**20


async def decoded(url: str, max_bytes: int) -> bytes:
    """The bytes of `data:[type][;name=value...][;base64],...`, at most `max_bytes`. The type is not
    believed.

    base64 is strict: its one alphabet, padded, no white space. What is percent-encoded, either in
    place of base64 or around it, has at most MAX_ESCAPED characters. Raises Refused.
    """
    comma = url.find(",", 0, _MAX_HEAD)
    if comma < 0:
        raise Refused("is a data: URL without a comma before its data")
    if not url.isascii():
        raise Refused("is a data: URL with characters beyond ASCII")
    is_base64 = url[:comma].rstrip(" ").lower().endswith(";base64")
    if not is_base64 or "%" in url:
        if len(url) - comma > MAX_ESCAPED:
            raise Refused(f"is percent-encoded and longer than {MAX_ESCAPED}: use plain base64")
        body = unquote_to_bytes(url[comma + 1 :])
        if is_base64:
            return await _of_base64(body.decode("latin-1"), 0, max_bytes)
        if len(body) > max_bytes:
            raise too_many_bytes(max_bytes)
        return body
    return await _of_base64(url, comma + 1, max_bytes)


async def _of_base64(text: str, begin: int, max_bytes: int) -> bytes:
    pieces = []
    num_bytes = 0
    for at in range(begin, len(text), _PIECE):
        piece = text[at : at + _PIECE]
        try:
            pieces.append(binascii.a2b_base64(piece, strict_mode=True))
        except ValueError:
            raise Refused("is not base64") from None
        if piece[-1] == "=" and at + _PIECE < len(text):
            raise Refused("is not base64")
        num_bytes += len(pieces[-1])
        if num_bytes > max_bytes:
            raise too_many_bytes(max_bytes)
        await asyncio.sleep(0)  # the loop is free in between
    return b"".join(pieces)
