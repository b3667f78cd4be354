"""What a token is in bytes, for each kind of tokenizer."""

import pytest
from tokenizers import Tokenizer, decoders, models

from tests.tiny_model import tiny_tokenizer
from vlserve.engines.native.text.vocabulary import Vocabulary

STOP = frozenset([2])


def test_byte_level_tokens_are_their_bytes_even_half_a_character() -> None:
    tokenizer = tiny_tokenizer().backend_tokenizer
    vocabulary = Vocabulary(tokenizer, 400, STOP)
    text = "naïve café, 東京の写真 😀 and more"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    each = [vocabulary.token_bytes(i) for i in ids]
    assert b"".join(each) == text.encode()
    assert any("\ufffd" in data.decode(errors="replace") for data in each)
    assert vocabulary.text([1, *ids, 2]) == text
    assert vocabulary.token_bytes(2) == b"</s>"
    assert vocabulary.token_bytes(399) == b""


def test_a_space_at_the_beginning_stays() -> None:
    vocabulary = Vocabulary(tiny_tokenizer().backend_tokenizer, 340, STOP)
    (space,) = tiny_tokenizer().backend_tokenizer.encode(" ", add_special_tokens=False).ids
    assert vocabulary.text([space]) == " "


def test_byte_fallback_and_word_marks() -> None:
    names = ["<unk>", "<s>", "</s>", "▁red", "red", "<0x0A>", "<0xF0>", "▁"]
    tokenizer = Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True)
    )
    tokenizer.add_special_tokens(names[:3])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    vocabulary = Vocabulary(tokenizer, len(names), STOP)
    each = [vocabulary.token_bytes(i) for i in range(2, len(names))]
    assert each == [b"</s>", b" red", b"red", b"\n", b"\xf0", b" "]


def test_a_tokenizer_that_tells_no_bytes_has_its_texts(caplog: pytest.LogCaptureFixture) -> None:
    words = Tokenizer(models.WordLevel({"red": 0, "blue": 1, "[UNK]": 2}, unk_token="[UNK]"))
    vocabulary = Vocabulary(words, 3, STOP)
    assert vocabulary.trie is None
    assert [vocabulary.token_bytes(i) for i in range(3)] == [b"red", b"blue", b"[UNK]"]
    assert "no answer can be guided" in caplog.text
