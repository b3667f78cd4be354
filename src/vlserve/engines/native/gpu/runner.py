"""Runs the model on a GPU: a recorded call of the decoder for those who decode, and a second call
for the parts of prompts."""

import logging
from collections.abc import Sequence as Seq

import torch

from vlserve.engines.native.gpu.cuda_graphs import (
    CudaRecorder,
    DecodeGraphs,
    DecodeInputs,
    DecodeOutputs,
    DecodeRow,
    EagerRecorder,
    Recorder,
    padding_rows,
)
from vlserve.engines.native.gpu.kernels import choose_kernels
from vlserve.engines.native.gpu.page_attention import (
    ATTENTION,
    PageStep,
    page_attention,
    places_of,
    prompt_pages,
)
from vlserve.engines.native.gpu.page_cache import PagedCache
from vlserve.engines.native.gpu.peak import (
    CudaMeter,
    Meter,
    bytes_left,
    largest_picture,
    longest_prefill,
    picture_bytes,
)
from vlserve.engines.native.runners.batched import BatchedRunner, joined
from vlserve.engines.native.runners.cache_shape import CacheShape, cache_bytes
from vlserve.engines.native.runners.self_check import NotBatchedError
from vlserve.engines.native.sampling.logits import Logits, best_tokens
from vlserve.engines.native.scheduling.memory import PagedMemory
from vlserve.engines.native.scheduling.pages import PAGE, num_pages
from vlserve.engines.native.scheduling.scheduler import IDLE_STEP_TOKENS, Plan, Prefill
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.models.base import ModelAdapter
from vlserve.models.transfer import to_device
from vlserve.settings import MIB, EngineSettings

_log = logging.getLogger(__name__)

# Tokens of prompts beside others that decode. No GPU has been asked yet what they cost there.
STEP_TOKENS = 512
# The most of a step, whoever decodes.
PEAK_TOKENS = max(STEP_TOKENS, IDLE_STEP_TOKENS)


class PagedRunner(BatchedRunner):
    """A BatchedRunner whose sequences have pages of the cache and share cached ones.

    Rows that decode are replayed from a CUDA graph where there is one; the rest of a step follows
    on the same stream. The host waits for the device once a step, for the tokens.
    """

    def __init__(self, adapter: ModelAdapter, settings: EngineSettings) -> None:
        """Takes seconds: the decode step is recorded. Raises ValueError when the cache's bound
        does not hold two pages."""
        device, dtype = torch.device(adapter.model.device), adapter.model.dtype
        self._shape = shape = CacheShape.of(adapter.text_config)
        self._kernels = choose_kernels(
            device,
            dtype,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
        )
        super().__init__(adapter, ATTENTION, page_attention, settings.max_running)
        self._group = shape.num_heads // shape.num_kv_heads
        # Pages of the longest row of the step.
        self._widest = 1
        is_measured = settings.cache_mib is None and device.type == "cuda"
        bound = cache_bytes(settings.cache_mib)
        pages = (
            self.measured_pages(CudaMeter(device)) if is_measured else shape.num_pages(bound, dtype)
        )
        self._cache = self._new_cache(pages)
        self._graphs = self._recorded()

    @property
    def cache(self) -> PagedCache:
        """The pages."""
        return self._cache

    @property
    def step_tokens(self) -> int:
        """See Runner."""
        return STEP_TOKENS

    def memory(self) -> PagedMemory:
        """See Runner."""
        return PagedMemory(self._cache.num_pages)

    def run(self, plan: Plan) -> Logits:
        """See Runner."""
        if not plan.prefills:
            decoded = self._decode(plan.decodes)
            return Logits(decoded.logits, self._suppressed, decoded.greedy)
        parts = []
        if plan.decodes:
            parts.append(self._decode(plan.decodes))
        rows = self._prefill(plan.prefills)
        parts.append(DecodeOutputs(rows, best_tokens(rows, self._suppressed)))
        return Logits(
            torch.cat([part.logits for part in parts]),
            self._suppressed,
            torch.cat([part.greedy for part in parts]),
        )

    def measured_pages(self, meter: Meter) -> int:
        """The pages that the device holds beside the weights, the most work that a step, a step of
        the vision tower and the sampler do at a time, and features for as many picture tokens.

        Raises ValueError where that is less than two pages, NotBatchedError for a model whose
        decoder does not run in a batch.
        """
        page_bytes = self._shape.page_bytes(self._dtype)
        most = bytes_left(*meter.memory(), 0) // page_bytes * PAGE
        context = min(self._adapter.text_config.max_position_embeddings, max(PAGE, most))
        self._cache = self._new_cache(2)
        self._widest = num_pages(context)
        padding = padding_rows(self.max_running, num_pages(context), 1, self._device)
        image = largest_picture(self._adapter, context)
        try:
            with torch.inference_mode():
                prefill = meter.peak(lambda: self.run(longest_prefill(context, PEAK_TOKENS)).rows())
                decode = meter.peak(lambda: Logits(self._step(padding), self._suppressed).rows())
                tower, feature_bytes = picture_bytes(self._adapter, image, meter)
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            self.close()
            raise NotBatchedError(str(error)) from error
        del self._cache
        _log.info(
            "at most a prefill takes %d MiB, a decode %d and the vision tower %d",
            *(each // MIB for each in (prefill, decode, tower)),
        )
        left = bytes_left(*meter.memory(), prefill + decode + tower)
        return self._shape.num_pages(left, self._dtype, beside=int(feature_bytes * PAGE))

    def _new_cache(self, pages: int) -> PagedCache:
        return PagedCache(self._shape, num_pages=pages, dtype=self._dtype, device=self._device)

    def _recorded(self) -> DecodeGraphs:
        if self._kernels.can_graph:
            try:
                return self._record(CudaRecorder())
            # Whatever a model's own code or a driver may raise: the eager step answers.
            except Exception as error:
                _log.warning("the decode step cannot be recorded, and is slow: %s", error)
        return self._record(EagerRecorder())

    def _record(self, recorder: Recorder) -> DecodeGraphs:
        graphs = DecodeGraphs(
            self._step,
            recorder,
            max_rows=self.max_running,
            max_pages=num_pages(self.max_context_tokens),
            page_tokens=PAGE,
            # A token of an answer has the same position three times, where there are three.
            num_positions=1,
            suppressed=self._suppressed,
            device=self._device,
        )
        with torch.inference_mode():
            graphs.record()
        return graphs

    def _decode(self, decodes: Seq[Sequence]) -> DecodeOutputs:
        self._widest = max(len(sequence.pages) for sequence in decodes)
        return self._graphs.replay([_decode_row(sequence) for sequence in decodes])

    def _step(self, inputs: DecodeInputs) -> torch.Tensor:
        """Logits `[B, vocab_size]` of the newest tokens: what is recorded."""
        if not self._kernels.can_graph:
            inputs = inputs.narrow(self._widest)
        embeddings = self._adapter.model.get_input_embeddings()(inputs.token_ids)
        step = PageStep(self._cache, self._kernels, inputs.places, inputs)
        logits: torch.Tensor = self._adapter.head(
            self._hidden(embeddings, inputs.positions, step, {})
        )
        return logits

    def _prefill(self, prefills: Seq[Prefill]) -> torch.Tensor:
        """Logits `[N, vocab_size]` of the N parts that are the last of their prompts."""
        embeddings = torch.cat([self._embedded(prefill) for prefill in prefills])
        places = torch.cat([places_of(prefill) for prefill in prefills])
        prompts, last_rows, start = [], [], 0
        for prefill in prefills:
            rows = prompt_pages(
                prefill,
                start,
                group=self._group,
                dtype=self._dtype,
                device=self._device,
                reaches=self._reaches,
            )
            prompts.append(rows)
            start = rows.end
            if prefill.is_last:
                last_rows.append(start - 1)
        step = PageStep(
            self._cache, self._kernels, to_device(places, self._device), None, tuple(prompts)
        )
        positions = joined([self._positions(prefill) for prefill in prefills])
        extras = self._deepstack(prefills, 0, start)
        hidden = self._hidden(embeddings, positions, step, extras)
        if not last_rows:
            return hidden.new_empty(0, self._adapter.text_config.vocab_size)
        wanted = hidden.index_select(0, to_device(torch.tensor(last_rows), self._device))
        logits: torch.Tensor = self._adapter.head(wanted)
        return logits

    def _hidden(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        step: PageStep,
        extras: dict[str, object],
    ) -> torch.Tensor:
        """`[T, hidden_size]` after the decoder, of embeddings of the same shape."""
        hidden: torch.Tensor = self._adapter.decoder(
            inputs_embeds=embeddings.unsqueeze(0),
            position_ids=positions,
            use_cache=False,
            page_step=step,
            **extras,
        ).last_hidden_state
        return hidden[0]


def _decode_row(sequence: Sequence) -> DecodeRow:
    position = sequence.num_tokens - 1 + sequence.prompt.position_shift
    return DecodeRow(sequence.token_ids[-1], (position,), sequence.pages, sequence.num_tokens)
