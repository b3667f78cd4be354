"""Idefics2's decoder over pages as the engine calls it, without the engine around it."""

from typing import Any

import torch
from transformers import AttentionInterface

from vlserve.engines.native.cache_shape import CacheShape
from vlserve.engines.native.graphs import DecodeInputs
from vlserve.engines.native.page_step import ATTENTION, PageStep, PromptPages, page_attention
from vlserve.engines.native.paged_attention import PAGE_TOKENS, PagedKernels
from vlserve.engines.native.paged_cache import PagedCache
from vlserve.engines.native.pages import num_pages


class PagedDecoder:
    """The text side of a model and `pages` pages of KV cache, which begin as zeros."""

    def __init__(self, model: Any, kernels: PagedKernels, pages: int) -> None:
        config = model.config.get_text_config()
        shape = CacheShape.of(config)
        self.cache = PagedCache(shape, num_pages=pages, dtype=model.dtype, device=model.device)
        for layer in (*self.cache.keys, *self.cache.values):
            layer.zero_()
        self.kernels = kernels
        self._group = shape.num_heads // shape.num_kv_heads
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
        step = PageStep(self.cache, self.kernels, inputs.places, inputs)
        return self._logits(self._embedding(inputs.token_ids), inputs.positions, step)

    def prefill(self, embeddings: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
        """Logits `[1, vocab_size]` after a prompt `[T, hidden_size]`, kept in `pages`."""
        num_tokens = embeddings.shape[0]
        tokens = torch.arange(num_tokens, device=embeddings.device)
        hidden = torch.full((num_tokens, num_tokens), -torch.inf, device=embeddings.device)
        mask = hidden.triu(1).to(embeddings.dtype).repeat(self._group, 1)
        reach = getattr(self._config, "sliding_window", None)
        prompt = PromptPages(
            0, num_tokens, pages[: num_pages(num_tokens)], num_tokens, {reach: mask}
        )
        places = pages[tokens // PAGE_TOKENS] * PAGE_TOKENS + tokens % PAGE_TOKENS
        step = PageStep(self.cache, self.kernels, places, None, (prompt,))
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
