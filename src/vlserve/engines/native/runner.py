"""Runs the model: one call of the decoder a step, for everyone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface

from vlserve.engines.native.attention import ATTENTION, slot_attention
from vlserve.engines.native.batch import Batch, decode_rows, prompt_rows
from vlserve.engines.native.kv_cache import make_cache
from vlserve.engines.native.linear import pack_linears
from vlserve.engines.native.pages import round_up
from vlserve.engines.native.scheduler import Plan, Prefill
from vlserve.models.base import ModelAdapter
from vlserve.models.features import image_features
from vlserve.settings import EngineSettings

# Below this many parameters a kernel is over before a second thread has begun: threads that wait
# for each other made steps 1.3 to 3 times longer on two cores.
MANY_PARAMETERS = 50_000_000
# Tokens of prompts beside others that decode: of a small model a step takes little longer for
# them, of a large one their time is nearly all of it.
STEP_TOKENS = 128
STEP_TOKENS_OF_MANY = 32
ROWS_STEP = 16


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

    @property
    def max_context_tokens(self) -> int:
        """The longest prompt and answer together."""
        most: int = self._adapter.text_config.max_position_embeddings
        return min(most, self.cache.num_tokens)

    @property
    def step_tokens(self) -> int:
        """Tokens of prompts in a step that others wait for."""
        return STEP_TOKENS if self._is_small else STEP_TOKENS_OF_MANY

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

    def close(self) -> None:
        """Give the model its own attention back."""
        self._adapter.text_config._attn_implementation = self._plain_attention

    def run(self, plan: Plan) -> torch.Tensor:
        """`f32[num_sequences, vocab_size]`: the logits of each next token that the plan wants."""
        return self.forward(self.batch(plan))

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
            cache=self.cache,
            inputs_embeds=torch.cat(embeddings).unsqueeze(0),
            position_ids=_joined(positions),
            extras=_deepstack(plan, start + num_padding, self._device),
            logit_rows=torch.tensor(logit_rows, device=self._device),
            decode=decode,
            prompts=tuple(rows),
            num_padding=num_padding,
        )

    def _embedded(self, prefill: Prefill) -> torch.Tensor:
        sequence = prefill.sequence
        return self._adapter.embed(
            sequence.prompt, sequence.all_token_ids, prefill.start, prefill.end
        )

    def _positions(self, prefill: Prefill) -> torch.Tensor:
        """`i64[P, T]`: the prompt's own, and what follows it counted on."""
        prompt, start, end = prefill.sequence.prompt, prefill.start, prefill.end
        after = torch.arange(start, end, device=self._device).unsqueeze(0) + prompt.position_shift
        if prompt.positions is None:
            return after
        own = torch.from_numpy(prompt.positions[:, start:end].copy()).to(self._device)
        return torch.cat((own, after[:, own.shape[1] :].expand(len(own), -1)), dim=1)

    def forward(self, batch: Batch) -> torch.Tensor:
        """`f32[num_sequences, vocab_size]`: the logits of each sequence's next token."""
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


def _deepstack(plan: Plan, num_rows: int, device: torch.device) -> dict[str, Any]:
    """The decoder's arguments that add picture features to rows of prompts in deeper layers."""
    rows: list[int] = []
    parts: list[tuple[torch.Tensor, ...]] = []
    start = len(plan.decodes)
    for prefill in plan.prefills:
        prompt = prefill.sequence.prompt
        first, last = np.searchsorted(prompt.places, (prefill.start, prefill.end))
        layers = [image_features(image).deepstack for image in prompt.images]
        if first < last and layers[0]:
            rows += (prompt.places[first:last] - prefill.start + start).tolist()
            joined = (torch.cat(each)[first:last] for each in zip(*layers, strict=True))
            parts.append(tuple(joined))
        start += prefill.end - prefill.start
    if not parts:
        return {}
    is_visual = torch.zeros(1, num_rows, dtype=torch.bool, device=device)
    is_visual[0, torch.tensor(rows, device=device)] = True
    return {
        "visual_pos_masks": is_visual,
        "deepstack_visual_embeds": [torch.cat(layer) for layer in zip(*parts, strict=True)],
    }
