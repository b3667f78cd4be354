"""Models that are known by name: where they come from, under which licence, and what they take.

What has a formula is computed from the numbers of the model's configuration. Nothing here is
loaded or fetched, and torch is not needed.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from vlserve.catalogue.image_tokens import (
    ClosestGrid,
    ImageTokens,
    OwnResolution,
    SameForAll,
    ScaledTiles,
    Unpadded,
)
from vlserve.models.errors import ModelError
from vlserve.models.kv_cache import kv_cache_bytes

CONVERSATION_TOKENS: Final = 4096
ITEM_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
NATIVE: Final = "native"
APACHE: Final = "Apache-2.0"
LLAMA_2: Final = "Llama 2 Community License"
GEMMA: Final = "Gemma Terms of Use"
QWEN: Final = "Qwen License"
QWEN_RESEARCH: Final = "Qwen Research License (non-commercial)"
CARD: Final = "see the model card"


@dataclass(frozen=True)
class Decoder:
    """The numbers of a text decoder that decide its cache."""

    layers: int
    kv_heads: int
    head_dim: int
    max_tokens: int

    def cache_bytes(self, tokens: int, dtype: str) -> int:
        """Keys and values of `tokens` tokens in all layers, in bytes."""
        return kv_cache_bytes(
            tokens,
            num_layers=self.layers,
            num_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            item_bytes=ITEM_BYTES[dtype],
        )


@dataclass(frozen=True)
class Preset:
    """A model by name.

    `dtype` is the 16-bit number format that it was published in, and `engine` who serves it here:
    the native engine, or another one named.
    """

    name: str
    repository: str
    licence: str
    parameters: int
    decoder: Decoder
    image_tokens: ImageTokens
    dtype: str = "bfloat16"
    engine: str = NATIVE
    note: str = ""

    def weight_bytes(self, dtype: str) -> int:
        """All parameters in `dtype`, in bytes."""
        return self.parameters * ITEM_BYTES[dtype]

    def conversation_bytes(self, dtype: str) -> int:
        """The cache of one conversation of 4,096 tokens, or of the whole context if shorter."""
        tokens = min(CONVERSATION_TOKENS, self.decoder.max_tokens)
        return self.decoder.cache_bytes(tokens, dtype)

    def needed_bytes(self, dtype: str) -> int:
        """Weights and the cache of one conversation, in bytes."""
        return self.weight_bytes(dtype) + self.conversation_bytes(dtype)


_IDEFICS2: Final = (
    APACHE, 8_402_768_112, Decoder(32, 8, 128, 32768), SameForAll(64, 980, tiles=5, marks=6)
)  # fmt: skip
_LLAVA: Final = SameForAll(576, 336)
_GEMMA3: Final = SameForAll(256, 896, marks=4)
_SMOLVLM: Final = ScaledTiles(64, 512, 2048)
_QWEN2_5: Final = OwnResolution(28, 56 * 56, 12_845_056)
_QWEN3: Final = OwnResolution(32, 65_536, 16_777_216)
_INTERNVL: Final = ClosestGrid()

PRESETS: Final = (
    Preset(
        "embedded", "inside the package", APACHE, 3_029_440, Decoder(4, 4, 32, 2048),
        SameForAll(100, 80, marks=2), dtype="float16",
        note="nothing to download; knows shapes, colours, places, numbers and words",
    ),
    Preset(
        "idefics2-8b", "HuggingFaceM4/idefics2-8b", *_IDEFICS2,
        note="short answers; 66 tokens a picture where its do_image_splitting is set to false",
    ),
    Preset(
        "idefics2-8b-chatty", "HuggingFaceM4/idefics2-8b-chatty", *_IDEFICS2,
        note="long answers; pictures as in idefics2-8b",
    ),
    Preset(
        "idefics3-8b", "HuggingFaceM4/Idefics3-8B-Llama3", APACHE, 8_462_086_384,
        Decoder(32, 8, 128, 131072), ScaledTiles(169, 364, 1456),
    ),
    Preset(
        "smolvlm-256m", "HuggingFaceTB/SmolVLM-256M-Instruct", APACHE, 256_484_928,
        Decoder(30, 3, 64, 8192), _SMOLVLM,
    ),
    Preset(
        "smolvlm-500m", "HuggingFaceTB/SmolVLM-500M-Instruct", APACHE, 507_482_304,
        Decoder(32, 5, 64, 8192), _SMOLVLM,
    ),
    Preset(
        "smolvlm-2.2b", "HuggingFaceTB/SmolVLM-Instruct", APACHE, 2_246_272_880,
        Decoder(24, 32, 64, 16384), ScaledTiles(81, 384, 1536),
    ),
    Preset(
        "internvl3-1b", "OpenGVLab/InternVL3-1B-hf", CARD, 938_193_024,
        Decoder(24, 2, 64, 32768), _INTERNVL,
    ),
    Preset(
        "internvl3-2b", "OpenGVLab/InternVL3-2B-hf", CARD, 2_088_957_440,
        Decoder(28, 2, 128, 32768), _INTERNVL,
    ),
    Preset(
        "internvl3-8b", "OpenGVLab/InternVL3-8B-hf", CARD, 7_944_373_760,
        Decoder(28, 4, 128, 32768), _INTERNVL,
    ),
    Preset(
        "internvl3-14b", "OpenGVLab/InternVL3-14B-hf", CARD, 15_117_256_704,
        Decoder(48, 8, 128, 32768), _INTERNVL,
    ),
    Preset(
        "internvl3-38b", "OpenGVLab/InternVL3-38B-hf", CARD, 38_388_164_992,
        Decoder(64, 8, 128, 32768), _INTERNVL,
    ),
    Preset(
        "internvl3-78b", "OpenGVLab/InternVL3-78B-hf", CARD, 78_408_318_336,
        Decoder(80, 8, 128, 32768), _INTERNVL,
    ),
    Preset(
        "internvl2.5-78b", "OpenGVLab/InternVL2_5-78B", QWEN, 78_408_318_336,
        Decoder(80, 8, 128, 32768), _INTERNVL, engine="upstream",
        note="its repository holds code, which is not run here: an upstream engine such as "
        "LMDeploy serves it, not the native one; internvl3-78b has the same shape and is native",
    ),
    Preset(
        "qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", QWEN_RESEARCH, 3_754_622_976,
        Decoder(36, 2, 128, 128000), _QWEN2_5,
    ),
    Preset(
        "qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", APACHE, 8_292_166_656,
        Decoder(28, 4, 128, 128000), _QWEN2_5,
    ),
    Preset(
        "qwen2.5-vl-32b", "Qwen/Qwen2.5-VL-32B-Instruct", APACHE, 33_452_718_336,
        Decoder(64, 8, 128, 128000), _QWEN2_5,
    ),
    Preset(
        "qwen2.5-vl-72b", "Qwen/Qwen2.5-VL-72B-Instruct", QWEN, 73_410_777_344,
        Decoder(80, 8, 128, 128000), _QWEN2_5,
    ),
    Preset(
        "qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct", APACHE, 2_127_532_032,
        Decoder(28, 8, 128, 262144), _QWEN3,
    ),
    Preset(
        "qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", APACHE, 4_437_815_808,
        Decoder(36, 8, 128, 262144), _QWEN3,
    ),
    Preset(
        "qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", APACHE, 8_767_123_696,
        Decoder(36, 8, 128, 262144), _QWEN3,
    ),
    Preset(
        "qwen3-vl-32b", "Qwen/Qwen3-VL-32B-Instruct", APACHE, 33_357_390_064,
        Decoder(64, 8, 128, 262144), _QWEN3,
    ),
    Preset(
        "llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", LLAMA_2, 7_063_427_072,
        Decoder(32, 32, 128, 4096), _LLAVA, dtype="float16",
    ),
    Preset(
        "llava-1.5-13b", "llava-hf/llava-1.5-13b-hf", LLAMA_2, 13_351_494_656,
        Decoder(40, 40, 128, 4096), _LLAVA, dtype="float16",
    ),
    Preset(
        "llava-v1.6-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf", APACHE, 7_566_747_648,
        Decoder(32, 8, 128, 32768), Unpadded(), dtype="float16",
    ),
    Preset(
        "gemma3-4b", "google/gemma-3-4b-it", GEMMA, 4_300_079_472,
        Decoder(34, 4, 256, 131072), _GEMMA3,
    ),
    Preset(
        "gemma3-12b", "google/gemma-3-12b-it", GEMMA, 12_187_325_040,
        Decoder(48, 8, 256, 131072), _GEMMA3,
    ),
    Preset(
        "gemma3-27b", "google/gemma-3-27b-it", GEMMA, 27_432_406_640,
        Decoder(62, 16, 128, 131072), _GEMMA3,
    ),
)  # fmt: skip


def find(name: str) -> Preset:
    """The preset of that name. Raises ModelError, which names what is close to it."""
    known = {preset.name: preset for preset in PRESETS}
    if name.lower() in known:
        return known[name.lower()]
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"close to it: {', '.join(close)}" if close else "`vlserve models` lists those there are"
    raise ModelError(f"no model is known as {name!r}; {hint}")
