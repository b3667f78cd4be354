"""Runs the model on a CPU: one call of the decoder a step, for everyone."""

from typing import Any

import torch

from vlserve.engines.native.cpu.batch import Batch, decode_rows, prompt_rows
from vlserve.engines.native.cpu.packed_linear import pack_linears
from vlserve.engines.native.cpu.slot_attention import ATTENTION, slot_attention
from vlserve.engines.native.cpu.slot_cache import SlotCache, make_cache
from vlserve.engines.native.cpu.threads import Team
from vlserve.engines.native.runners.batched import BatchedRunner, joined
from vlserve.engines.native.runners.cache_shape import cache_bytes
from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling.memory import SlotMemory
from vlserve.engines.native.scheduling.pages import round_up
from vlserve.engines.native.scheduling.scheduler import Plan
from vlserve.models.base import ModelAdapter
from vlserve.settings import EngineSettings

# Tokens of prompts beside others that decode: of a small model a step takes little longer for
# them, of a large one their time is nearly all of it.
STEP_TOKENS = 128
STEP_TOKENS_OF_MANY = 32
ROWS_STEP = 16


class SlotRunner(BatchedRunner):
    """A BatchedRunner whose sequences have a slot of the cache each."""

    def __init__(self, adapter: ModelAdapter, settings: EngineSettings) -> None:
        self._cache = make_cache(
            adapter.text_config,
            cache_bytes=cache_bytes(settings.cache_mib),
            max_running=settings.max_running,
            dtype=adapter.model.dtype,
        )
        super().__init__(adapter, ATTENTION, slot_attention, settings.max_running)
        if self._device.type == "cpu" and self._dtype == torch.float32:
            pack_linears(adapter.model)
        self._team = Team(torch.get_num_threads())
        self._decoder = adapter.decoder
        self._head = adapter.head
        self._embedding = adapter.model.get_input_embeddings()

    @property
    def cache(self) -> SlotCache:
        """The slots."""
        return self._cache

    @property
    def step_tokens(self) -> int:
        """See Runner."""
        return STEP_TOKENS if self._is_small else STEP_TOKENS_OF_MANY

    def memory(self) -> SlotMemory:
        """See Runner."""
        return SlotMemory(self._cache.num_pages, self._cache)

    def run(self, plan: Plan) -> Logits:
        """See Runner."""
        return Logits(self.forward(self.batch(plan)), self._suppressed)

    def batch(self, plan: Plan) -> Batch:
        """The step's tensors."""
        options: Any = {"dtype": self._dtype, "device": self._device, "reaches": self._reaches}
        embeddings, positions, rows, decode = [], [], [], None
        logit_rows = list(range(len(plan.decodes)))
        start = len(plan.decodes)
        if plan.decodes:
            newest = torch.tensor([s.token_ids[-1] for s in plan.decodes], device=self._device)
            embeddings.append(self._embedding(newest))
            decode = decode_rows(plan.decodes, **options)
            shifts = [s.prompt.position_shift for s in plan.decodes]
            shifted = decode.positions + torch.tensor(shifts, device=self._device)
            positions.append(shifted.unsqueeze(0))
        for prefill in plan.prefills:
            part = prompt_rows(prefill, start, **options)
            embeddings.append(self._embedded(prefill))
            positions.append(self._positions(prefill))
            rows.append(part)
            start = part.end
            if prefill.is_last:
                logit_rows.append(start - 1)
        # Kernels are compiled for a number of rows when it is first seen: few numbers, then.
        num_padding = round_up(start, ROWS_STEP) - start if plan.prefills else 0
        if num_padding:
            embeddings.append(embeddings[0].new_zeros(num_padding, embeddings[0].shape[1]))
            positions.append(torch.zeros(1, num_padding, dtype=torch.long, device=self._device))
        return Batch(
            cache=self._cache,
            inputs_embeds=torch.cat(embeddings).unsqueeze(0),
            position_ids=joined(positions),
            extras=self._deepstack(plan.prefills, len(plan.decodes), start + num_padding),
            logit_rows=torch.tensor(logit_rows, device=self._device),
            decode=decode,
            prompts=tuple(rows),
            num_padding=num_padding,
            team=self._team,
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """`[num_sequences, vocab_size]`: the logits of each sequence's next token."""
        hidden = self._decoder(
            inputs_embeds=batch.inputs_embeds,
            position_ids=batch.position_ids,
            use_cache=False,
            slot_batch=batch,
            **batch.extras,
        ).last_hidden_state
        if not len(batch.logit_rows):
            return torch.empty(0, self._adapter.text_config.vocab_size, device=self._device)
        logits: torch.Tensor = self._head(hidden[0].index_select(0, batch.logit_rows))
        return logits
