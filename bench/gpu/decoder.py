"""Idefics2's decoder over pages: prompts eager, decode steps as `DecodeGraphs` records them.

Beside the engine's `page_step`, since a GPU machine may have PyTorch and Transformers and nothing
else that the engine stands on.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from vlserve.engines.native.gpu.cuda_graphs import DecodeInputs
from vlserve.engines.native.gpu.kernels import PAGE_TOKENS, PagedKernels

ATTENTION = "vlserve_bench_pages"


@dataclass(frozen=True, slots=True)
class PageStep:
    """What each layer of one call needs: where tokens are written and, when they decode, what is
    looked at. A prompt looks at itself."""

    decoder: "PagedDecoder"
    places: torch.Tensor
    decode: DecodeInputs | None


class PagedDecoder:
    """The text side of a model with a KV cache of `num_pages` pages a layer."""

    def __init__(self, model: Any, kernels: PagedKernels, num_pages: int) -> None:
        config = model.config.get_text_config()
        shape = (num_pages, config.num_key_value_heads, PAGE_TOKENS, config.head_dim)
        layers = range(config.num_hidden_layers)
        options = {"dtype": model.dtype, "device": model.device}
        self.keys = [torch.zeros(shape, **options) for _ in layers]
        self.values = [torch.zeros(shape, **options) for _ in layers]
        self.kernels = kernels
        self._embedding = model.get_input_embeddings()
        self._decoder = model.get_decoder()
        self._head = model.get_output_embeddings()
        AttentionInterface.register(ATTENTION, page_attention)
        self._config = config
        self._plain_attention = config._attn_implementation
        config._attn_implementation = ATTENTION

    def close(self) -> None:
        """Give the model its own attention back."""
        self._config._attn_implementation = self._plain_attention

    def step(self, inputs: DecodeInputs) -> torch.Tensor:
        """Logits `[B, vocab_size]` of the newest tokens."""
        embeddings = self._embedding(inputs.token_ids)
        return self._logits(embeddings, inputs.positions, PageStep(self, inputs.places, inputs))

    def prefill(self, embeddings: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
        """Logits `[1, vocab_size]` after a prompt `[T, hidden_size]`, kept in `pages`."""
        tokens = torch.arange(embeddings.shape[0], device=embeddings.device)
        places = pages[tokens // PAGE_TOKENS] * PAGE_TOKENS + tokens % PAGE_TOKENS
        step = PageStep(self, places, None)
        return self._logits(embeddings, tokens.unsqueeze(0), step, last=1)

    def _logits(
        self, embeddings: torch.Tensor, positions: torch.Tensor, step: PageStep, last: int = 0
    ) -> torch.Tensor:
        hidden = self._decoder(
            inputs_embeds=embeddings.unsqueeze(0),
            position_ids=positions if positions.shape[0] == 1 else positions.unsqueeze(1),
            use_cache=False,
            page_step=step,
        ).last_hidden_state[0]
        logits: torch.Tensor = self._head(hidden[-last:])
        return logits


def page_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    page_step: PageStep,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Write the call's keys and values to pages and attend: `[1, T, num_heads, head_dim]`."""
    del attention_mask, others
    decoder, layer = page_step.decoder, module.layer_idx
    keys, values, kernels = decoder.keys[layer], decoder.values[layer], decoder.kernels
    kernels.write(key[0].transpose(0, 1), value[0].transpose(0, 1), keys, values, page_step.places)
    decode = page_step.decode
    if decode is None:
        out = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2), None
    rows = query[0].transpose(0, 1)
    out = kernels.attend(
        rows,
        keys,
        values,
        decode.page_table,
        decode.lengths,
        scaling=scaling,
        window=sliding_window,
    )
    return out.unsqueeze(0), None
