"""How likely the tokens of an answer were, as the model has it."""

import torch

from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.types import TokenLogprob


def token_logprob(
    logits: torch.Tensor, token_id: int, num_top: int, vocabulary: Vocabulary
) -> TokenLogprob:
    """Of the token that was picked at the place of `f32[vocab_size]`, with the `num_top` likeliest
    there. One row at a time: a log-softmax of many rows need not have the same last bits."""
    logprobs = logits.log_softmax(dim=-1)
    values, ids = logprobs.topk(min(num_top, len(logprobs)))
    top = tuple(
        TokenLogprob(each, value, vocabulary.token_bytes(each))
        for each, value in zip(ids.tolist(), values.tolist(), strict=True)
    )
    picked = float(logprobs[token_id])
    return TokenLogprob(token_id, picked, vocabulary.token_bytes(token_id), top)
