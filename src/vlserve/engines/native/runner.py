"""Runs the model: one call of the decoder a step, for everyone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from vlserve.engines.native.attention import ATTENTION, slot_attention
from vlserve.engines.native.batch import Batch, PromptRows, decode_rows
from vlserve.engines.native.kv_cache import make_cache
from vlserve.engines.native.linear import pack_linears
from vlserve.engines.native.scheduler import Plan
from vlserve.engines.native.sequence import Sequence
from vlserve.engines.native.slots import round_up
from vlserve.models.base import ModelAdapter, PromptInputs
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
        self._reaches = _reaches(adapter.text_config)
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
        self._plain_attention: str = adapter.text_config._attn_implementation
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

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """The decoder attends as Transformers has it, for as long as the context lasts."""
        self._adapter.text_config._attn_implementation = self._plain_attention
        try:
            yield
        finally:
            self._adapter.text_config._attn_implementation = ATTENTION

    def embed(self, sequence: Sequence) -> PromptInputs:
        """The prompt, its pictures seen."""
        inputs = self._adapter.embed(sequence.prompt)
        sequence.position_shift = inputs.next_position - len(sequence.prompt.token_ids)
        return inputs

    def batch(self, plan: Plan, prompts: list[PromptInputs]) -> Batch:
        """The step's tensors; `prompts` belong to `plan.prefills`."""
        device = self._device
        embeddings, positions, rows, decode = [], [], [], None
        logit_rows: list[int] = []
        start = len(plan.decodes)
        if plan.decodes:
            newest = torch.tensor([s.token_ids[-1] for s in plan.decodes], device=device)
            embeddings.append(self._embedding(newest))
            decode = decode_rows(
                plan.decodes, dtype=self._dtype, device=device, reaches=self._reaches
            )
            shifts = torch.tensor([s.position_shift for s in plan.decodes], device=device)
            positions.append((decode.positions + shifts).unsqueeze(0))
            logit_rows += range(start)
        for sequence, prompt in zip(plan.prefills, prompts, strict=True):
            assert sequence.slot is not None  # noqa: S101 - the scheduler gave it one
            end = start + prompt.embeddings.shape[0]
            rows.append(PromptRows(sequence.slot, start, end, prompt.blocks))
            embeddings.append(prompt.embeddings)
            positions.append(prompt.positions)
            logit_rows.append(end - 1)
            start = end
        # Kernels are compiled for a number of rows when it is first seen: few numbers, then.
        num_padding = round_up(start) - start if plan.prefills else 0
        if num_padding:
            embeddings.append(embeddings[0].new_zeros(num_padding, embeddings[0].shape[1]))
            positions.append(torch.zeros(1, num_padding, dtype=torch.long, device=device))
        return Batch(
            cache=self.cache,
            inputs_embeds=torch.cat(embeddings).unsqueeze(0),
            position_ids=_joined(positions),
            extras=_deepstack(prompts, len(plan.decodes), num_padding),
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
            **batch.extras,
        ).last_hidden_state
        logits: torch.Tensor = self._head(hidden[0].index_select(0, batch.logit_rows))
        return logits.float()


def _reaches(text_config: Any) -> tuple[int | None, ...]:
    """The distances over which the decoder's layers attend; None is any distance."""
    window: int | None = getattr(text_config, "sliding_window", None)
    return (None,) if window is None else (None, window)


def _joined(positions: list[torch.Tensor]) -> torch.Tensor:
    """`[1, T]`, or `[3, 1, T]` where a prompt has three positions a token."""
    width = max(each.shape[0] for each in positions)
    joined = torch.cat([each.expand(width, -1) for each in positions], dim=1)
    return joined if width == 1 else joined.unsqueeze(1)


def _deepstack(prompts: list[PromptInputs], before: int, after: int) -> dict[str, Any]:
    """The decoder's arguments that add picture features to the rows of prompts in deeper layers."""
    if not any(prompt.deepstack for prompt in prompts):
        return {}
    marks = []
    for prompt in prompts:
        none = torch.zeros(len(prompt.embeddings), dtype=torch.bool, device=prompt.positions.device)
        marks.append(none if prompt.is_visual is None else prompt.is_visual)
    layers = zip(*(prompt.deepstack for prompt in prompts if prompt.deepstack), strict=True)
    return {
        "visual_pos_masks": functional.pad(torch.cat(marks), (before, after)).unsqueeze(0),
        "deepstack_visual_embeds": [torch.cat(layer) for layer in layers],
    }
