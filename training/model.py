"""The embedded model: an Idefics2 of a few million parameters with an initialisation that learns.

At step 0 latent i already copies patch i, and the first vision layers already look at neighbours:
the defaults of the library (latents all ones, range 0.02) do not learn at this width.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration, MistralConfig
from transformers.models.idefics2.configuration_idefics2 import (
    Idefics2PerceiverConfig,
    Idefics2VisionConfig,
)

from .oracle import TEXT_WIDTH, TOKEN_SCALE, token_rows
from .world import GRID, IMAGE_SIZE, PATCH_SIZE

VISION_WIDTH = 192
VISION_HEADS = 12
VISION_LAYERS = 4
VISION_MLP = 576
LOCAL_LAYERS = 2
TEXT_LAYERS = 4
TEXT_HEADS = 4
TEXT_MLP = 384
LATENTS = GRID * GRID

# The first 2 * GRID dimensions of the vision stream, of the context and of the latents hold a
# one-hot row and a one-hot column; dimension FLAG of the latents marks them as latents.
POSITION = 2 * GRID
FLAG = POSITION
POSITION_SCALE = 4.0
# Dimensions of the vision stream for a patch's own patterns and for those of each neighbour.
COPIED = 12
OWN = VISION_WIDTH - POSITION - 8 * COPIED


@dataclass(frozen=True)
class TokenizerFacts:
    """What the model must know of the tokenizer.

    `concept_tokens` maps a token id to the index in `oracle.CONCEPTS` that the token names.
    """

    vocab_size: int
    image_token_id: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int
    concept_tokens: dict[int, int] = field(default_factory=dict)


def build_config(facts: TokenizerFacts) -> Idefics2Config:
    """The configuration of the embedded model for this tokenizer."""
    text = MistralConfig(
        vocab_size=facts.vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=TEXT_MLP,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        num_key_value_heads=TEXT_HEADS,
        head_dim=TEXT_WIDTH // TEXT_HEADS,
        max_position_embeddings=2048,
        sliding_window=None,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        pad_token_id=facts.pad_token_id,
        bos_token_id=facts.bos_token_id,
        eos_token_id=facts.eos_token_id,
        tie_word_embeddings=False,
    )
    vision = Idefics2VisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=VISION_MLP,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    perceiver = Idefics2PerceiverConfig(
        hidden_size=TEXT_WIDTH,
        rms_norm_eps=1e-5,
        resampler_n_latents=LATENTS,
        resampler_depth=1,
        resampler_n_heads=TEXT_HEADS,
        resampler_head_dim=TEXT_WIDTH // TEXT_HEADS,
        num_key_value_heads=TEXT_HEADS,
    )
    return Idefics2Config(
        text_config=text,
        vision_config=vision,
        perceiver_config=perceiver,
        image_token_id=facts.image_token_id,
        pad_token_id=facts.pad_token_id,  # type: ignore[call-arg]  # kept by the base class
        bos_token_id=facts.bos_token_id,
        eos_token_id=facts.eos_token_id,
        tie_word_embeddings=False,
    )


def build_model(seed: int, facts: TokenizerFacts) -> Idefics2ForConditionalGeneration:
    """An untrained model whose weights depend on `seed` alone; float32, on the CPU."""
    model = Idefics2ForConditionalGeneration(build_config(facts))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                _normal(parameter, parameter.shape[1] ** -0.5, generator)
        _start_vision(model.model.vision_model, generator)
        _start_connector(model.model.connector, generator)
        _start_text(model, facts, generator)
    return model


def _normal(parameter: torch.Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


def position_code() -> torch.Tensor:
    """`f32[LATENTS, POSITION]`: one-hot row, then one-hot column, of every patch."""
    one_hot = torch.eye(GRID)
    rows = one_hot[:, None].expand(GRID, GRID, GRID)
    columns = one_hot[None].expand(GRID, GRID, GRID)
    return torch.cat([rows, columns], -1).reshape(LATENTS, POSITION)


def _cosine_basis() -> torch.Tensor:
    """`f32[OWN, 3, P, P]`: orthogonal cosine patterns, by rising frequency (as in a JPEG block).

    All the brightness patterns first, then the slowest of the two colour differences.
    """
    size = np.arange(PATCH_SIZE)
    wave = np.cos(np.pi * np.outer(size, size + 0.5) / PATCH_SIZE) * (2 / PATCH_SIZE) ** 0.5
    wave[0] *= 0.5**0.5
    mixes = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    order = [(mix > 0, v + u, mix, v, u) for mix in range(3) for v in size for u in size]
    # Slow patterns are far the strongest in pictures, plain brightness most of all: level them.
    patterns = [
        (0.45 * (1 + v + u) ** 0.9 if v + u else 0.6 if mix else 0.1)
        * np.einsum("c,y,x->cyx", mixes[mix], wave[v], wave[u])
        for _, _, mix, v, u in sorted(order)[:OWN]
    ]
    return torch.from_numpy(np.stack(patterns).astype(np.float32))


def _start_vision(vision: Any, generator: torch.Generator) -> None:
    code = position_code()
    vision.embeddings.position_embedding.weight.zero_()
    vision.embeddings.position_embedding.weight[:, :POSITION] = POSITION_SCALE * code
    patch = vision.embeddings.patch_embedding
    patch.weight.zero_()
    patch.bias.zero_()
    basis = _cosine_basis()
    patch.weight[POSITION : POSITION + len(basis)] = basis
    for index, layer in enumerate(vision.encoder.layers):
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        for output in (layer.self_attn.out_proj, layer.mlp.fc2):
            output.weight *= 0.1
            output.weight[:POSITION] = 0
        if index < LOCAL_LAYERS:
            _look_at_neighbours(layer.self_attn)
    _copy_neighbours(vision.encoder.layers[0].self_attn)


def _look_at_neighbours(attention: Any, sharpness: float = 1.3, reach: float = 0.7) -> None:
    """Let nine heads start by attending to one offset each of the 3 x 3 patches around.

    With features f such that f(i) . f(j) is nearly a narrow bump in i - j, a query of row r asks
    for f(r + offset) and a key of row r answers f(r); columns likewise.
    """
    places = torch.arange(-1.0, GRID + 1)
    bump = torch.exp(-((places[:, None] - places[None]) ** 2) / (2 * reach**2))
    values, vectors = torch.linalg.eigh(bump.double())
    half = attention.head_dim // 2
    features = (vectors[:, -half:] * values[-half:].sqrt()).float()
    for head in range(9):
        at = head * attention.head_dim
        query = attention.q_proj.weight[at : at + attention.head_dim]
        key = attention.k_proj.weight[at : at + attention.head_dim]
        query *= 0.3
        key *= 0.3
        for axis, offset in enumerate((head // 3 - 1, head % 3 - 1)):
            dims = slice(axis * half, (axis + 1) * half)
            ones = slice(axis * GRID, (axis + 1) * GRID)
            query[dims, ones] = sharpness * features[1 + offset : 1 + offset + GRID].T
            key[dims, ones] = sharpness * features[1 : 1 + GRID].T


def _copy_neighbours(attention: Any) -> None:
    """Let the eight heads that look at a neighbour copy its slow patterns to dimensions kept free.

    So the first MLP already sees a window of 3 x 3 patches.
    """
    free = POSITION + OWN
    for head in (0, 1, 2, 3, 5, 6, 7, 8):
        at = slice(head * attention.head_dim, head * attention.head_dim + COPIED)
        attention.v_proj.weight[at] = 0
        attention.v_proj.weight[at, POSITION : POSITION + COPIED] = torch.eye(COPIED)
        attention.out_proj.weight[:, at] = 0
        attention.out_proj.weight[free : free + COPIED, at] = 0.6 * torch.eye(COPIED)
        free += COPIED


def _start_connector(connector: Any, generator: torch.Generator) -> None:
    modality = connector.modality_projection
    modality.down_proj.weight[: FLAG + 1] = 0
    for entrance in (modality.gate_proj, modality.up_proj):
        entrance.weight[:POSITION] = 0
        entrance.weight[:POSITION, :POSITION] = torch.eye(POSITION)
    # silu(x) * x is about x squared for the marked dimension and about 0 for the others.
    modality.down_proj.weight[:, :POSITION] = 0
    modality.down_proj.weight[:POSITION, :POSITION] = 0.35 * torch.eye(POSITION)

    perceiver = connector.perceiver_resampler
    perceiver.latents.zero_()
    perceiver.latents[:, :POSITION] = position_code()
    perceiver.latents[:, FLAG] = 1
    layer = perceiver.layers[0]
    attention = layer.self_attn
    head_dim = attention.head_dim
    attention.q_proj.weight.mul_(0.1)
    attention.k_proj.weight.mul_(0.1)
    for at in range(0, attention.num_heads * head_dim, head_dim):
        for projection, sign in ((attention.q_proj, 1), (attention.k_proj, -1)):
            rows = projection.weight[at : at + FLAG + 1]
            rows.zero_()
            rows[:POSITION, :POSITION] = torch.eye(POSITION)
            rows[FLAG, FLAG] = 3.0 * sign
    mixed = torch.randn(TEXT_WIDTH, TEXT_WIDTH, generator=generator)
    orthogonal = torch.linalg.qr(mixed).Q
    attention.v_proj.weight.copy_(orthogonal)
    attention.o_proj.weight.copy_(orthogonal.T)
    layer.mlp.down_proj.weight *= 0.4


def _start_text(
    model: Idefics2ForConditionalGeneration, facts: TokenizerFacts, generator: torch.Generator
) -> None:
    text = model.model.text_model
    _normal(text.embed_tokens.weight, TOKEN_SCALE, generator)
    concepts = token_rows()
    for token, concept in facts.concept_tokens.items():
        text.embed_tokens.weight[token] = concepts[concept]
    model.lm_head.weight.copy_(0.25 * text.embed_tokens.weight)
    for layer in text.layers:
        layer.self_attn.o_proj.weight *= 0.4
        layer.mlp.down_proj.weight *= 0.4
