"""`data:` URLs (RFC 2397): the bytes that are in them."""

import asyncio
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from vlserve.media.errors import Refused, too_many_bytes

SCHEME: Final = "data:"
MAX_ESCAPED: Final = 2**18  # characters: to read escapes takes a hundred times as long as base64
_MAX_HEAD: Final = 1024
# A multiple of 4, so that every piece but the last is whole by itself.
_PIECE: Final = 2**20
_FIRST_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")
_LINE_ENDS: Final = "\r\n"
_NO_LINE_ENDS: Final = dict.fromkeys(map(ord, _LINE_ENDS))
_OTHER: Final = re.compile(r"[^A-Za-z0-9+/_=\r\n-]")  # in neither alphabet


async def decode(url: str, max_bytes: int) -> bytes:
    """The bytes of `data:[type][;name=value...][;base64],...`, at most `max_bytes`. The type is not
    believed.

    base64 may be in either of its alphabets, in lines, and without its padding; it holds nothing
    else. What is percent-encoded, either in place of base64 or around it, has at most MAX_ESCAPED
    characters. Raises Refused.
    """
    comma = url.find(",", 0, _MAX_HEAD)
    if comma < 0:
        raise Refused("is a data: URL without a comma before its data")
    if not url.isascii():
        at = next(i for i, character in enumerate(url) if not character.isascii())
        raise Refused(f"is a data: URL with a character beyond ASCII, at {at}")
    is_base64 = url[:comma].rstrip(" ").lower().endswith(";base64")
    if not is_base64 or "%" in url:
        if len(url) - comma > MAX_ESCAPED:
            raise Refused(
                f"is percent-encoded and has {len(url) - comma} characters, of at most"
                f" {MAX_ESCAPED}: use plain base64"
            )
        body = unquote_to_bytes(url[comma + 1 :])
        if is_base64:
            return await _of_base64(body.decode("latin-1"), 0, max_bytes)
        if len(body) > max_bytes:
            raise too_many_bytes(len(body), max_bytes)
        return body
    return await _of_base64(url, comma + 1, max_bytes)


async def _of_base64(text: str, begin: int, max_bytes: int) -> bytes:
    """What `text` holds from `begin` on, in pieces, with the loop free in between."""
    pieces: list[bytes] = []
    num_bytes = 0
    rest = b""  # less than four letters, that wait for what comes after them
    for at in range(begin, len(text), _PIECE):
        is_last = at + _PIECE >= len(text)
        try:
            letters = rest + _plain(text[at : at + _PIECE].encode("ascii"))
            length = len(letters) if is_last else len(letters) // 4 * 4
            whole, rest = letters[:length], letters[length:]
            # Where the padding is left out, there is one way alone to fill it in.
            pieces.append(binascii.a2b_base64(whole + b"=" * (-length % 4), strict_mode=True))
        except ValueError:
            raise _not_base64(text, begin) from None
        if b"=" in whole[-1:] and text[at + _PIECE :].strip(_LINE_ENDS):
            raise _not_base64(text, begin)
        num_bytes += len(pieces[-1])
        if num_bytes > max_bytes:
            raise too_many_bytes(_num_letters(text, begin) * 3 // 4, max_bytes)
        await asyncio.sleep(0)
    return b"".join(pieces)


def _num_letters(text: str, begin: int) -> int:
    """Without padding and line ends: each stands for 6 bits."""
    return len(text) - begin - sum(text.count(each, begin) for each in f"={_LINE_ENDS}")


def _plain(letters: bytes) -> bytes:
    """base64 without line ends, in its first alphabet."""
    if any(letter in letters for letter in b"\r\n-_"):
        return letters.translate(_FIRST_ALPHABET, b"\r\n")
    return letters


def _not_base64(text: str, begin: int) -> Refused:
    """What is wrong with it, and where, counted from 0 at `begin`."""
    if wrong := _OTHER.search(text, begin):
        at, character = wrong.start() - begin, wrong[0]
        if character.isspace():
            words = "write it without, as base64 -w0 does"
            return Refused(f"is not base64: white space at {at}: {words}")
        return Refused(f"is not base64: {character!r} at {at}")
    padding = text.find("=", begin)
    if padding >= 0 and text[padding:].strip(f"={_LINE_ENDS}"):
        return Refused(f"is not base64: the padding at {padding - begin} is not its end")
    num_letters = len(text[begin:].translate(_NO_LINE_ENDS))
    return Refused(f"is not base64: {num_letters} characters are one too many or too few")
