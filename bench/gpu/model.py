"""Idefics2-8B with random weights: nothing is downloaded, and speed does not depend on weights."""

from typing import Any

import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration, MistralConfig
from transformers.models.idefics2.configuration_idefics2 import (
    Idefics2PerceiverConfig,
    Idefics2VisionConfig,
)

IDEFICS2_8B: dict[str, dict[str, Any]] = {
    "text": {
        "vocab_size": 32003,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
    },
    "vision": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 980,
        "patch_size": 14,
    },
    "perceiver": {
        "hidden_size": 4096,
        "resampler_n_latents": 64,
        "resampler_depth": 3,
        "resampler_n_heads": 16,
        "resampler_head_dim": 96,
        "num_key_value_heads": 4,
    },
}
# The same shape, small enough for a trial of the measurement itself on any machine.
TOY: dict[str, dict[str, Any]] = {
    "text": {
        "vocab_size": 320,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "sliding_window": 1024,
    },
    "vision": {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 112,
        "patch_size": 14,
    },
    "perceiver": {
        "hidden_size": 128,
        "resampler_n_latents": 8,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "resampler_head_dim": 16,
        "num_key_value_heads": 1,
    },
}


def make_config(sizes: dict[str, dict[str, Any]]) -> Any:
    """The configuration of an Idefics2 of these sizes."""
    return Idefics2Config(
        text_config=MistralConfig(
            **sizes["text"],
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        ),
        vision_config=Idefics2VisionConfig(**sizes["vision"]),
        perceiver_config=Idefics2PerceiverConfig(**sizes["perceiver"]),
        image_token_id=sizes["text"]["vocab_size"] - 2,
        tie_word_embeddings=False,
    )


def make_model(config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The model, made on the device: 16.8 GB of bfloat16 for the 8B never lie on the host."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    # Not every version of Transformers hands the dtype on to the parts of a model.
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            family: Any = Idefics2ForConditionalGeneration
            model = family._from_config(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def num_parameters(config: Any) -> int:
    """Counted without making any."""
    with torch.device("meta"):
        model = Idefics2ForConditionalGeneration(config)
    return sum(parameter.numel() for parameter in model.parameters())
