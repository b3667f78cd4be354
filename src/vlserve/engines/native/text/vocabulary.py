"""The model's tokens as bytes. Knows no torch."""

import logging

from llguidance import LLTokenizer
from tokenizers import Tokenizer

from vlserve.engines.native.text.grammar import trie

_log = logging.getLogger(__name__)


class Vocabulary:
    """What each token id stands for.

    `size` is the number of logits; ids beyond the tokenizer's stand for nothing. `stop_token_ids`
    end an answer. `trie` is what grammars walk over: None for a tokenizer that tells no bytes of
    its tokens, with which no answer can be guided. `definition` is the tokenizer as JSON.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, stop_token_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._num_tokens = tokenizer.get_vocab_size()
        self.size = max(size, self._num_tokens)
        self.stop_token_ids = sorted(stop_token_ids)
        self.definition = tokenizer.to_str()
        self.trie = self._trie()

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, a part of a character perhaps; a special token's name."""
        if token_id >= self._num_tokens:
            return b""
        data = b"" if self.trie is None else self.trie.decode_bytes([token_id])
        # The trie has its own use for the byte 255, which is in no text.
        return data or self._tokenizer.decode([token_id], skip_special_tokens=False).encode()

    def text(self, token_ids: list[int]) -> str:
        """Tokens as the grammar reads them, special tokens left out. Unlike the tokenizer's own
        decoder it takes no space off the beginning. Only where there is a `trie`."""
        assert self.trie is not None  # noqa: S101 - guided answers alone are read this way
        said = [i for i in token_ids if not self.trie.is_special_token(i)]
        return self.trie.decode_bytes(said).decode(errors="replace")

    def _trie(self) -> LLTokenizer | None:
        try:
            return trie(self.definition, self.size, self.stop_token_ids)
        except ValueError:
            _log.warning("the tokenizer tells no bytes of its tokens: no answer can be guided")
            return None
