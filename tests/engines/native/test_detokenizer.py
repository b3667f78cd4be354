"""Pieces of text add up to the whole, cut at characters and at stop strings."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_model import tiny_tokenizer
from vlserve.engines.native.text.detokenizer import INCOMPLETE, Detokenizer

TOKENIZER = tiny_tokenizer()
DECODE: Callable[[list[int]], str] = TOKENIZER.backend_tokenizer.decode
IDS = st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30)
STOPS = st.lists(st.text("ab <é😀", min_size=1, max_size=3), max_size=3)
TEXTS = st.text(st.sampled_from("aab <é東京😀👩‍👧 \n"), max_size=30)


def streamed(ids: list[int], stop: list[str]) -> tuple[list[str], bool]:
    detokenizer = Detokenizer(DECODE, stop)
    pieces = []
    for token_id in ids:
        pieces.append(detokenizer.push(token_id))
        if detokenizer.is_stopped:
            break
    pieces.append(detokenizer.finish())
    return pieces, detokenizer.is_stopped


@settings(max_examples=500, deadline=None)
@given(IDS)
def test_pieces_of_any_tokens_are_the_processors_text(ids: list[int]) -> None:
    pieces, _ = streamed(ids, [])
    assert "".join(pieces) == TOKENIZER.decode(ids, skip_special_tokens=True)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_no_piece_has_half_a_character(text: str) -> None:
    pieces, _ = streamed(TOKENIZER.encode(text, add_special_tokens=False), [])
    assert "".join(pieces) == text.removeprefix(" ")
    assert not any(INCOMPLETE in piece for piece in pieces)


@settings(max_examples=500, deadline=None)
@given(TEXTS, STOPS)
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    whole = DECODE(ids)
    # A stop string counts once its last character is there: the one that ends first wins.
    ends = [(whole.find(s) + len(s), whole.find(s)) for s in stop if s in whole]
    pieces, is_stopped = streamed(ids, stop)
    assert is_stopped == bool(ends)
    shown = "".join(pieces)
    if not ends:
        assert shown == whole
        return
    assert whole.startswith(shown)
    assert any(whole[len(shown) :].startswith(s) for s in stop)
    assert not any(s in shown for s in stop)
