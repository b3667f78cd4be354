"""What a step has computed: a row of logits for each sequence that gets a token."""

import torch

from vlserve.models.transfer import to_host

NOT_FINITE = -1


class Logits:
    """Rows of one step, on the model's device.

    `rows` is `[N, vocab_size]`, `suppressed` `i64[S]` the tokens that are never picked, and `best`
    `i64[N]` the `best_tokens` of the rows where the step has picked them already.
    """

    def __init__(
        self, rows: torch.Tensor, suppressed: torch.Tensor, best: torch.Tensor | None = None
    ) -> None:
        self._rows = rows
        self._suppressed = suppressed
        self._best = best

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> torch.Tensor:
        """`f32[N, vocab_size]`, a copy that the caller may change."""
        return self._rows.to(torch.float32, copy=True)

    def best(self) -> list[int | Exception]:
        """Of each row the token with the largest logit that is not suppressed; ArithmeticError for
        a row whose numbers are not finite."""
        if not len(self):
            return []
        best = best_tokens(self._rows, self._suppressed) if self._best is None else self._best
        broken = ArithmeticError("the logits are not finite")
        return [broken if token == NOT_FINITE else token for token in to_host(best)]


def best_tokens(logits: torch.Tensor, suppressed: torch.Tensor) -> torch.Tensor:
    """`i64[N]`: of each row of `[N, vocab_size]` the token with the largest logit that is not one
    of `suppressed` `i64[S]`; NOT_FINITE where that is no finite number."""
    best, tokens = logits.index_fill(1, suppressed, -torch.inf).max(dim=-1)
    # Not by `torch.where`, which copies a number of the host's to the device and waits for it.
    return tokens.masked_fill(~best.isfinite(), NOT_FINITE)
