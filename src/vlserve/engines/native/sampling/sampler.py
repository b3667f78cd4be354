"""Picks the next token of each sequence from its row of logits."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.sampling.logprobs import token_logprob
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.text.matcher import GuideError
from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.models.generation import GenerationRules
from vlserve.types import SamplingParams

# Below it scores grow beyond float32; what is drawn there is the best token anyway.
COLDEST = 1e-5
# What does not change the row of a greedy token, or is looked at apart. Whatever else a request
# may ask for is plain only as it is where nothing was asked.
HARMLESS = {
    "max_tokens", "min_tokens", "stop", "stop_token_ids",
    "temperature", "top_k", "top_p", "min_p", "seed",
}  # fmt: skip
_NOTHING = SamplingParams()
ASKS_NOTHING = {
    field.name: getattr(_NOTHING, field.name)
    for field in fields(SamplingParams)
    if field.name not in HARMLESS
}


class Sampler:
    """Greedy or drawn, one row at a time: what is picked depends on no other row.

    A request draws with a generator of its own. Penalties and biases change the logits first, then
    come the guide's mask and the filters, in the order in which `generate` applies them:
    temperature, top_k, top_p, min_p.
    """

    def __init__(
        self, rules: GenerationRules, device: torch.device, vocabulary: Vocabulary
    ) -> None:
        self._rules = rules
        self._device = device
        self._vocabulary = vocabulary
        # A row of bits for each guided sequence of a step.
        self._bits = np.zeros((0, -(-vocabulary.size // 32)), np.int32)
        self._suppressed = torch.tensor(rules.suppressed, dtype=torch.long, device=device)
        self._generators: WeakKeyDictionary[Sequence, torch.Generator] = WeakKeyDictionary()

    def pick(self, logits: Logits, sequences: tuple[Sequence, ...]) -> list[int | Exception]:
        """The next token of each row, or what failed for that row alone.

        Each sequence's guide is taken a token further, and its `logprobs` are those of the token.
        """
        if self.is_greedy(sequences):
            return logits.best()
        return self.sample(logits.rows(), sequences)

    def sample(
        self, logits: torch.Tensor, sequences: tuple[Sequence, ...]
    ) -> list[int | Exception]:
        """As `pick`, of `f32[num_sequences, vocab_size]`, which is changed in place."""
        if not sequences:
            return []
        plain = {
            row: logits[row].clone()
            for row, sequence in enumerate(sequences)
            if sequence.matcher is not None or sequence.sampling.logprobs is not None
        }
        logits.index_fill_(1, self._suppressed, -math.inf)
        if self._rules.is_contextual:
            self._suppress_in_context(logits, sequences)
        for row, sequence in enumerate(sequences):
            self._adjust(logits[row], sequence)
        failed = self._guide(logits, sequences, plain)
        best, greedy = logits.max(dim=1)
        picked: list[int | Exception] = list(greedy.tolist())
        for row, value in enumerate(best.tolist()):
            if row in failed:
                picked[row] = failed[row]
            elif not math.isfinite(value):
                picked[row] = ArithmeticError("the logits are not finite")
            elif sequences[row].sampling.temperature > COLDEST:
                try:
                    picked[row] = self._draw(logits[row : row + 1], sequences[row])
                except Exception as error:
                    picked[row] = error
        for row, logits_before in plain.items():
            token_id = picked[row]
            if isinstance(token_id, int):
                try:
                    self._take(sequences[row], token_id, logits_before)
                except Exception as error:
                    picked[row] = error
        return picked

    def is_greedy(self, sequences: tuple[Sequence, ...]) -> bool:
        """Whether each is given its best token that is not suppressed, and nothing else changes
        its row or is asked about it."""
        if self._rules.is_contextual or self._rules.repetition_penalty != 1:
            return False
        return all(_is_plain(sequence) for sequence in sequences)

    def _guide(
        self,
        logits: torch.Tensor,
        sequences: tuple[Sequence, ...],
        plain: dict[int, torch.Tensor],
    ) -> dict[int, Exception]:
        """Rule out what guides do not allow; the rows whose guide cannot be followed."""
        rows = [row for row, sequence in enumerate(sequences) if sequence.matcher is not None]
        failed: dict[int, Exception] = {}
        if not rows:
            return failed
        if len(rows) > len(self._bits):
            self._bits = np.zeros((len(rows), self._bits.shape[1]), np.int32)
        bits = self._bits[: len(rows)]
        for row, mask in zip(rows, bits, strict=True):
            matcher = sequences[row].matcher
            assert matcher is not None  # noqa: S101 - that is how the rows were found
            try:
                matcher.fill(mask)
            except GuideError as error:
                failed[row] = error
        allowed = np.unpackbits(
            bits.view(np.uint8), axis=1, count=logits.shape[1], bitorder="little"
        )
        is_out = torch.from_numpy(allowed == 0).to(self._device)
        guided = logits[rows].masked_fill_(is_out, -math.inf)
        # The guide wins where the other rules leave none of its tokens.
        for row in (guided == -math.inf).all(dim=1).nonzero()[:, 0].tolist():
            guided[row] = plain[rows[row]].masked_fill(is_out[row], -math.inf)
        logits[rows] = guided
        return failed

    def _take(self, sequence: Sequence, token_id: int, logits: torch.Tensor) -> None:
        """What a picked token means for its sequence; `logits` are the model's own."""
        if sequence.matcher is not None:
            sequence.matcher.advance(token_id)
        num_top = sequence.sampling.logprobs
        if num_top is not None:
            sequence.logprobs = (token_logprob(logits, token_id, num_top, self._vocabulary),)

    def _suppress_in_context(self, logits: torch.Tensor, sequences: tuple[Sequence, ...]) -> None:
        for row, sequence in enumerate(sequences):
            ruled_out = self._rules.suppressed_after(sequence.prompt.token_ids, sequence.token_ids)
            logits[row, ruled_out] = -math.inf

    def _adjust(self, scores: torch.Tensor, sequence: Sequence) -> None:
        """Penalties and biases of one request, on `f32[vocab_size]` in place."""
        sampling = sequence.sampling
        repetition = sampling.repetition_penalty or self._rules.repetition_penalty
        if repetition != 1:
            held = self._ids({*sequence.prompt.token_ids, *sequence.token_ids})
            values = scores[held]
            scores[held] = torch.where(values < 0, values * repetition, values / repetition)
        if sequence.token_ids and (sampling.presence_penalty or sampling.frequency_penalty):
            counts = Counter(sequence.token_ids)
            times = torch.tensor(list(counts.values()), dtype=scores.dtype, device=self._device)
            penalty = sampling.presence_penalty + sampling.frequency_penalty * times
            scores[self._ids(counts)] -= penalty
        if sampling.logit_bias:
            biases = torch.tensor(list(sampling.logit_bias.values()), device=self._device)
            scores[self._ids(sampling.logit_bias)] += biases
        if len(sequence.token_ids) < sampling.min_tokens:
            scores[self._ids(sequence.stop_token_ids)] = -math.inf

    def _ids(self, ids: Iterable[int]) -> torch.Tensor:
        return torch.tensor(list(ids), dtype=torch.long, device=self._device)

    def _draw(self, scores: torch.Tensor, sequence: Sequence) -> int:
        sampling = sequence.sampling
        no_ids = torch.empty(1, 0, dtype=torch.long)
        if sampling.temperature != 1:
            scores = TemperatureLogitsWarper(float(sampling.temperature))(no_ids, scores)
        if sampling.top_k:
            scores = TopKLogitsWarper(sampling.top_k)(no_ids, scores)
        if sampling.top_p < 1:
            scores = TopPLogitsWarper(float(sampling.top_p))(no_ids, scores)
        if sampling.min_p:
            warper = MinPLogitsWarper(float(sampling.min_p))
            scores = warper(no_ids, scores)  # type: ignore[arg-type]  # their own LongTensor
        probabilities = scores.softmax(dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator(sequence)))

    def _generator(self, sequence: Sequence) -> torch.Generator:
        generator = self._generators.get(sequence)
        if generator is None:
            generator = torch.Generator(self._device)
            if sequence.sampling.seed is None:
                generator.seed()
            else:
                generator.manual_seed(sequence.sampling.seed)
            self._generators[sequence] = generator
        return generator


def _is_plain(sequence: Sequence) -> bool:
    sampling = sequence.sampling
    if sampling.temperature > COLDEST or len(sequence.token_ids) < sampling.min_tokens:
        return False
    return all(getattr(sampling, name) == value for name, value in ASKS_NOTHING.items())
