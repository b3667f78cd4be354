"""Runs the model: one call of the decoder a step, for everyone."""

import torch
from transformers import AttentionInterface

from vlserve.engines.native.attention import ATTENTION, slot_attention
from vlserve.engines.native.batch import Batch, PromptRows, decode_rows
from vlserve.engines.native.kv_cache import make_cache
from vlserve.engines.native.linear import pack_linears
from vlserve.engines.native.scheduler import Plan
from vlserve.engines.native.sequence import Sequence
from vlserve.engines.native.slots import round_up
from vlserve.models.base import ModelAdapter
from vlserve.settings import EngineSettings

# Below this many parameters a kernel is over before a second thread has begun: threads that wait
# for each other made steps 1.3 to 3 times longer on two cores.
MANY_PARAMETERS = 50_000_000


class Runner:
    """A loaded model with its KV cache. Used by one thread, under `torch.inference_mode`."""

    def __init__(self, adapter: ModelAdapter, settings: EngineSettings) -> None:
        self._adapter = adapter
        self._device = torch.device(adapter.model.device)
        self._dtype: torch.dtype = adapter.model.dtype
        self._window: int | None = getattr(adapter.text_config, "sliding_window", None)
        self.cache = make_cache(
            adapter.text_config,
            cache_mib=settings.cache_mib,
            max_running=settings.max_running,
            dtype=self._dtype,
            device=self._device,
        )
        self._is_small = adapter.model.num_parameters() < MANY_PARAMETERS
        self.enter_thread()
        AttentionInterface.register(ATTENTION, slot_attention)
        # The decoder alone: the vision tower attends as it always does.
        adapter.text_config._attn_implementation = ATTENTION
        if self._device.type == "cpu" and self._dtype == torch.float32:
            pack_linears(adapter.model)
        self._decoder = adapter.decoder
        self._head = adapter.head
        self._embedding = adapter.model.get_input_embeddings()

    def enter_thread(self) -> None:
        """Called by each thread that uses the runner: torch counts threads for each apart."""
        if self._device.type == "cpu" and self._is_small:
            torch.set_num_threads(1)

    def embed(self, sequence: Sequence) -> torch.Tensor:
        """`[num_tokens, hidden_size]`: the prompt, its pictures seen."""
        return self._adapter.embed(sequence.prompt)

    def batch(self, plan: Plan, prompts: list[torch.Tensor]) -> Batch:
        """The step's tensors; `prompts` are the embeddings of `plan.prefills`."""
        device = self._device
        embeddings, rows, positions, decode = [], [], [], None
        logit_rows: list[int] = []
        start = len(plan.decodes)
        if plan.decodes:
            newest = torch.tensor([s.token_ids[-1] for s in plan.decodes], device=device)
            embeddings.append(self._embedding(newest))
            decode = decode_rows(
                plan.decodes, dtype=self._dtype, device=device, window=self._window
            )
            positions.append(decode.positions)
            logit_rows += range(start)
        for sequence, prompt in zip(plan.prefills, prompts, strict=True):
            assert sequence.slot is not None  # noqa: S101 - the scheduler gave it one
            end = start + prompt.shape[0]
            rows.append(PromptRows(sequence.slot, start, end))
            embeddings.append(prompt)
            positions.append(torch.arange(prompt.shape[0], device=device))
            logit_rows.append(end - 1)
            start = end
        # Kernels are compiled for a number of rows when it is first seen: few numbers, then.
        num_padding = round_up(start) - start if plan.prefills else 0
        if num_padding:
            embeddings.append(embeddings[0].new_zeros(num_padding, embeddings[0].shape[1]))
            positions.append(torch.zeros(num_padding, dtype=torch.long, device=device))
        return Batch(
            cache=self.cache,
            inputs_embeds=torch.cat(embeddings).unsqueeze(0),
            position_ids=torch.cat(positions).unsqueeze(0),
            logit_rows=torch.tensor(logit_rows, device=device),
            decode=decode,
            prompts=tuple(rows),
            num_padding=num_padding,
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """`f32[num_sequences, vocab_size]`: the logits of each sequence's next token."""
        hidden = self._decoder(
            inputs_embeds=batch.inputs_embeds,
            position_ids=batch.position_ids,
            use_cache=False,
            slot_batch=batch,
        ).last_hidden_state
        logits: torch.Tensor = self._head(hidden[0].index_select(0, batch.logit_rows))
        return logits.float()
