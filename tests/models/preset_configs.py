"""The fields of each preset's configuration that decide its shapes and are not a default."""

from collections.abc import Callable
from typing import Any

import transformers

Fields = dict[str, Any]
tf: Any = transformers
SO400M: Fields = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "patch_size": 14,
}  # fmt: skip
SIGLIP_B: Fields = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "patch_size": 16, "image_size": 512,
}  # fmt: skip
CLIP_L: Fields = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "patch_size": 14, "image_size": 336, "projection_dim": 768,
}  # fmt: skip
INTERNVIT_300M: Fields = {"hidden_size": 1024, "attention_bias": True}
INTERNVIT_6B: Fields = {
    "hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 45,
    "num_attention_heads": 25, "use_qk_norm": True, "norm_type": "rms_norm",
}  # fmt: skip


def text(*numbers: int) -> Fields:
    """The decoder's numbers under the names that every text configuration has for them."""
    names = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "vocab_size",
    )  # fmt: skip
    return dict(zip(names, numbers, strict=True))


def idefics2() -> Any:
    return tf.Idefics2Config(
        text_config={"model_type": "mistral", **text(4096, 32, 32, 8, 14336, 32003)},
        vision_config={**SO400M, "image_size": 980},
        perceiver_config={
            "hidden_size": 4096, "resampler_n_latents": 64, "resampler_depth": 3,
            "resampler_n_heads": 16, "resampler_head_dim": 96, "num_key_value_heads": 4,
        },
        tie_word_embeddings=False,
    )  # fmt: skip


def idefics3(words: Fields, vision: Fields, scale: int, **more: Any) -> Any:
    return tf.Idefics3Config(
        text_config={"model_type": "llama", **words, **more},
        vision_config=vision,
        scale_factor=scale,
        tie_word_embeddings=False,
    )


def internvl(words: Fields, vision: Fields) -> Any:
    return tf.InternVLConfig(
        text_config={"model_type": "qwen2", **words},
        vision_config=vision,
        tie_word_embeddings=False,
    )


def qwen2_5_vl(words: Fields, vision_mlp: int, tied: bool = False) -> Any:
    return tf.Qwen2_5_VLConfig(
        text_config=words,
        vision_config={
            "depth": 32, "hidden_size": 1280, "intermediate_size": vision_mlp,
            "out_hidden_size": words["hidden_size"],
        },
        tie_word_embeddings=tied,
    )  # fmt: skip


def qwen3_vl(words: Fields, vision: Fields, tied: bool) -> Any:
    return tf.Qwen3VLConfig(
        text_config={**words, "head_dim": 128},
        vision_config={**vision, "out_hidden_size": words["hidden_size"]},
        tie_word_embeddings=tied,
    )


def llava(kind: str, words: Fields) -> Any:
    return getattr(tf, f"{kind}Config")(
        text_config={"model_type": "mistral" if kind == "LlavaNext" else "llama", **words},
        vision_config={"model_type": "clip_vision_model", **CLIP_L},
        tie_word_embeddings=False,
    )


def gemma3(words: Fields, head_dim: int) -> Any:
    return tf.Gemma3Config(
        text_config={**words, "head_dim": head_dim},
        vision_config={
            "model_type": "siglip_vision_model", **SO400M, "image_size": 896,
            "vision_use_head": False,
        },
    )  # fmt: skip


QWEN3_VIT_S: Fields = {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}  # fmt: skip
QWEN3_VIT_L: Fields = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304,
    "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip
CONFIGS: dict[str, Callable[[], Any]] = {
    "idefics2-8b": idefics2,
    "idefics2-8b-chatty": idefics2,
    "idefics3-8b": lambda: idefics3(
        text(4096, 32, 32, 8, 14336, 128259), {**SO400M, "image_size": 364}, 2
    ),
    "smolvlm-256m": lambda: idefics3(text(576, 30, 9, 3, 1536, 49280), SIGLIP_B, 4, head_dim=64),
    "smolvlm-500m": lambda: idefics3(text(960, 32, 15, 5, 2560, 49280), SIGLIP_B, 4, head_dim=64),
    "smolvlm-2.2b": lambda: idefics3(
        text(2048, 24, 32, 32, 8192, 49155), {**SO400M, "image_size": 384}, 3
    ),
    "internvl3-1b": lambda: internvl(text(896, 24, 14, 2, 4864, 151674), INTERNVIT_300M),
    "internvl3-2b": lambda: internvl(text(1536, 28, 12, 2, 8960, 151674), INTERNVIT_300M),
    "internvl3-8b": lambda: internvl(text(3584, 28, 28, 4, 18944, 151674), INTERNVIT_300M),
    "internvl3-14b": lambda: internvl(text(5120, 48, 40, 8, 13824, 151674), INTERNVIT_300M),
    "internvl3-38b": lambda: internvl(text(5120, 64, 40, 8, 27648, 151674), INTERNVIT_6B),
    "internvl3-78b": lambda: internvl(text(8192, 80, 64, 8, 29568, 151674), INTERNVIT_6B),
    # Its repository's configuration is of a class of its own; the shape is the same.
    "internvl2.5-78b": lambda: internvl(text(8192, 80, 64, 8, 29568, 151674), INTERNVIT_6B),
    "qwen2.5-vl-3b": lambda: qwen2_5_vl(text(2048, 36, 16, 2, 11008, 151936), 3420, tied=True),
    "qwen2.5-vl-7b": lambda: qwen2_5_vl(text(3584, 28, 28, 4, 18944, 152064), 3420),
    "qwen2.5-vl-32b": lambda: qwen2_5_vl(text(5120, 64, 40, 8, 27648, 152064), 3456),
    "qwen2.5-vl-72b": lambda: qwen2_5_vl(text(8192, 80, 64, 8, 29568, 152064), 3456),
    "qwen3-vl-2b": lambda: qwen3_vl(text(2048, 28, 16, 8, 6144, 151936), QWEN3_VIT_S, True),
    "qwen3-vl-4b": lambda: qwen3_vl(text(2560, 36, 32, 8, 9728, 151936), QWEN3_VIT_S, True),
    "qwen3-vl-8b": lambda: qwen3_vl(text(4096, 36, 32, 8, 12288, 151936), QWEN3_VIT_L, False),
    "qwen3-vl-32b": lambda: qwen3_vl(text(5120, 64, 64, 8, 25600, 151936), QWEN3_VIT_L, False),
    "llava-1.5-7b": lambda: llava("Llava", text(4096, 32, 32, 32, 11008, 32064)),
    "llava-1.5-13b": lambda: llava("Llava", text(5120, 40, 40, 40, 13824, 32064)),
    "llava-v1.6-mistral-7b": lambda: llava("LlavaNext", text(4096, 32, 32, 8, 14336, 32064)),
    "gemma3-4b": lambda: gemma3(text(2560, 34, 8, 4, 10240, 262208), 256),
    "gemma3-12b": lambda: gemma3(text(3840, 48, 16, 8, 15360, 262208), 256),
    "gemma3-27b": lambda: gemma3(text(5376, 62, 32, 16, 21504, 262208), 128),
}
