"""A start for the text side that binds: a word looks at the latents that share its concept.

In most heads of the first layer queries and keys start from one projection of the concept
subspace, on the rotary dimensions that turn slowest. A direction that all text embeddings share,
and no latent has, keeps words from looking at themselves. Values and outputs copy what is found,
so that the word 'circle' starts with the colour, size and place of the circle at hand.
"""

import torch
from transformers import Idefics2ForConditionalGeneration

from training.oracle import TEXT_WIDTH, tables

HEADS = 3
# Rotary pairs from this one on turn less than 0.02 radians a token at theta 1e5.
SLOWEST = 6
SHARPNESS = 1.8
TEXT_MARK = 0.3
REPEL = 1.3
COPY = 0.7


def _text_direction(generator: torch.Generator) -> torch.Tensor:
    """`f32[TEXT_WIDTH]` of unit length, orthogonal to every concept, row and column."""
    direction = torch.randn(TEXT_WIDTH, generator=generator)
    for row in torch.cat(list(tables())):
        direction -= (direction @ row) / (row @ row) * row
    unit: torch.Tensor = direction / direction.norm()
    return unit


@torch.no_grad()
def start_matching(model: Idefics2ForConditionalGeneration, seed: int) -> None:
    """Change the text side of a newly built `model` in place."""
    generator = torch.Generator().manual_seed(seed)
    mark = _text_direction(generator)
    text = model.model.text_model
    text.embed_tokens.weight += TEXT_MARK * TEXT_WIDTH**0.5 * mark
    attention = text.layers[0].self_attn
    head_dim = attention.head_dim
    half = head_dim // 2
    slow = [*range(SLOWEST, half), *range(half + SLOWEST, head_dim)]
    concepts = tables().concepts / TEXT_WIDTH**0.5
    for head in range(HEADS):
        rows = [head * head_dim + row for row in slow]
        shared = torch.randn(len(rows), TEXT_WIDTH, generator=generator) / TEXT_WIDTH**0.5
        shared = SHARPNESS * shared @ concepts.T @ concepts
        query, key = attention.q_proj.weight, attention.k_proj.weight
        for weight in (query, key):
            weight[head * head_dim : (head + 1) * head_dim] *= 0.1
            weight[rows] = shared
        query[rows[-1]], key[rows[-1]] = REPEL * mark, -REPEL * mark
    mixed = torch.randn(TEXT_WIDTH, TEXT_WIDTH, generator=generator)
    orthogonal = torch.linalg.qr(mixed).Q
    attention.v_proj.weight.copy_(orthogonal)
    attention.o_proj.weight.copy_(COPY * orthogonal.T)
