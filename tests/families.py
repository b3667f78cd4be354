"""Model folders of every family, small, with random weights, whose answers depend on pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.tiny_model import tiny_tokenizer
from vlserve.models.processors import for_pictures

# As it has no types of its own, and is called here with a dict for each family.
tf: Any = transformers
SPECIAL = (
    "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>", "<global-img>",
    "<img>", "</img>", "<IMG_CONTEXT>", "<video>",
    "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>",
    "<start_of_image>", "<end_of_image>", "<image_soft_token>",
)  # fmt: skip
TURNS = (
    "{% for message in messages %}{{ message['role'].capitalize() }}: "
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% else %}IMAGE{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is; heads are `head_dim` wide in the decoder and the tower."""

    head_dim: int
    decoder: dict[str, Any]
    vision: dict[str, Any]


def _size(hidden: int, layers: int, head_dim: int, vision: int, vision_layers: int) -> Size:
    heads = hidden // head_dim
    decoder = {
        "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads // 2,
        "max_position_embeddings": 2048, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": False,
    }  # fmt: skip
    tower = {
        "hidden_size": vision, "intermediate_size": 2 * vision,
        "num_hidden_layers": vision_layers, "num_attention_heads": vision // head_dim,
    }  # fmt: skip
    return Size(head_dim, decoder, tower)


TINY = _size(64, 3, 16, 48, 2)
# 20 to 100 million parameters.
MEDIUM = _size(512, 8, 64, 384, 4)

# What processors ask their tokenizer for by name.
NAMED = {
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "gemma3": {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    },
}


def tokenizer(family: str, marks: Sequence[str] = ()) -> Any:
    """The tiny tokenizer with the special tokens of all families, and `marks` as more of them."""
    backend = tiny_tokenizer().backend_tokenizer
    backend.add_special_tokens([*SPECIAL, *marks])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=NAMED.get(family, {}),
    )


def _chat(mark: str) -> str:
    return TURNS.replace("IMAGE", mark)


def idefics2(words: Any, size: Size) -> tuple[Any, Any]:
    """Idefics2: tiles of any shape, a perceiver, Mistral."""
    config = tf.Idefics2Config(
        text_config=tf.MistralConfig(vocab_size=len(words), sliding_window=None, **size.decoder),
        vision_config=tf.Idefics2VisionConfig(image_size=56, patch_size=14, **size.vision),
        perceiver_config=tf.Idefics2PerceiverConfig(
            hidden_size=size.decoder["hidden_size"],
            resampler_n_latents=8,
            resampler_depth=1,
            resampler_n_heads=2,
            resampler_head_dim=size.head_dim,
            num_key_value_heads=1,
        ),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    images = tf.Idefics2ImageProcessorPil(
        size={"shortest_edge": 28, "longest_edge": 56}, do_image_splitting=True
    )
    return config, tf.Idefics2Processor(
        images, words, image_seq_len=8, chat_template=_chat("<image>")
    )


def idefics3(kind: str, words: Any, size: Size) -> tuple[Any, Any]:
    """Idefics3 and SmolVLM: pixel shuffle, tiles."""
    config = getattr(tf, f"{kind}Config")(
        text_config=tf.LlamaConfig(vocab_size=len(words), **size.decoder),
        vision_config=getattr(tf, f"{kind}VisionConfig")(
            image_size=56, patch_size=14, **size.vision
        ),
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=3,
        tie_word_embeddings=False,
    )
    images = getattr(tf, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
    )
    made, options = getattr(tf, f"{kind}Processor"), {}
    if kind == "SmolVLM":
        made, options = for_pictures(made), {"video_processor": None}
    return config, made(images, words, image_seq_len=4, chat_template=_chat("<image>"), **options)


def internvl(words: Any, size: Size) -> tuple[Any, Any]:
    """InternVL: pixel shuffle, tiles and a thumbnail, Qwen2."""
    config = tf.InternVLConfig(
        text_config=tf.Qwen2Config(vocab_size=len(words), **size.decoder),
        vision_config=tf.InternVLVisionConfig(
            image_size=[56, 56], patch_size=[14, 14], **size.vision
        ),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    images = tf.GotOcr2ImageProcessorPil(
        size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4
    )
    processor = for_pictures(tf.InternVLProcessor)(
        images, words, image_seq_length=4, chat_template=_chat("<IMG_CONTEXT>")
    )
    return config, processor


def llava(words: Any, size: Size) -> tuple[Any, Any]:
    """LLaVA: CLIP and a projector."""
    config = tf.LlavaConfig(
        text_config=tf.LlamaConfig(vocab_size=len(words), **size.decoder),
        vision_config=tf.CLIPVisionConfig(image_size=56, patch_size=14, **size.vision),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    images = tf.CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    processor = tf.LlavaProcessor(
        images,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat("<image>"),
    )
    return config, processor


def llava_next(words: Any, size: Size) -> tuple[Any, Any]:
    """LLaVA-NeXT: tiles whose features are unpadded and joined by newlines."""
    grid = [[56, 112], [112, 56], [112, 112]]
    config = tf.LlavaNextConfig(
        text_config=tf.MistralConfig(vocab_size=len(words), sliding_window=None, **size.decoder),
        vision_config=tf.CLIPVisionConfig(image_size=56, patch_size=14, **size.vision),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    images = tf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=grid,
    )
    processor = tf.LlavaNextProcessor(
        images,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat("<image>"),
    )
    return config, processor


def qwen(kind: str, words: Any, size: Size) -> tuple[Any, Any]:
    """Qwen2.5-VL and Qwen3-VL: any resolution, positions in three dimensions."""
    name, ids = f"Qwen{kind}VL", words.convert_tokens_to_ids
    vision: dict[str, Any] = {
        "depth": size.vision["num_hidden_layers"], "hidden_size": size.vision["hidden_size"],
        "num_heads": size.vision["num_attention_heads"],
        "intermediate_size": size.vision["intermediate_size"],
        "out_hidden_size": size.decoder["hidden_size"], "patch_size": 14, "spatial_merge_size": 2,
    }  # fmt: skip
    sections = [each * size.head_dim // 16 for each in (2, 3, 3)]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 10000.0}
    if kind == "2_5_":
        vision |= {"fullatt_block_indexes": [1], "window_size": 56}
    else:
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        rope["mrope_interleaved"] = True
    config = getattr(tf, f"{name}Config")(
        text_config=size.decoder
        | {"vocab_size": len(words), "head_dim": size.head_dim, "rope_parameters": rope},
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    images = tf.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}, patch_size=14
    )
    chat = _chat("<|vision_start|><|image_pad|><|vision_end|>")
    processor = for_pictures(getattr(tf, f"{name}Processor"))(images, words, chat_template=chat)
    return config, processor


def gemma3(words: Any, size: Size) -> tuple[Any, Any]:
    """Gemma 3: pictures see themselves in both directions, most layers slide."""
    ids = words.convert_tokens_to_ids
    layers = (size.decoder["num_hidden_layers"] + 1) // 2
    config = tf.Gemma3Config(
        text_config=size.decoder
        | {
            "vocab_size": len(words),
            "head_dim": size.head_dim,
            "num_hidden_layers": 2 * layers,
            "sliding_window": 24,
            "query_pre_attn_scalar": size.head_dim,
            "layer_types": ["sliding_attention", "full_attention"] * layers,
        },
        vision_config=tf.SiglipVisionConfig(image_size=56, patch_size=14, **size.vision).to_dict(),
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
        tie_word_embeddings=False,
    )
    images = tf.Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    processor = tf.Gemma3Processor(
        images, words, image_seq_length=4, chat_template=_chat("<start_of_image>")
    )
    return config, processor


FAMILIES: dict[str, Callable[[Any, Size], tuple[Any, Any]]] = {
    "idefics2": idefics2,
    "idefics3": lambda words, size: idefics3("Idefics3", words, size),
    "smolvlm": lambda words, size: idefics3("SmolVLM", words, size),
    "internvl": internvl,
    "llava": llava,
    "llava_next": llava_next,
    "qwen2_5_vl": lambda words, size: qwen("2_5_", words, size),
    "qwen3_vl": lambda words, size: qwen("3", words, size),
    "gemma3": gemma3,
}


def write_family(name: str, folder: Path, size: Size = TINY, marks: Sequence[str] = ()) -> Path:
    """A model folder of a family, loaded as any other; `marks` are special to its tokenizer."""
    words = tokenizer(name, marks)
    config, processor = FAMILIES[name](words, size)
    torch.manual_seed(0)
    model = tf.AutoModelForImageTextToText.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            # The library's small range makes every picture look alike.
            if parameter.ndim > 1:
                scale = 1.5 * parameter[0].numel() ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        # Logits far enough apart that a rounding error does not choose.
        model.get_output_embeddings().weight.mul_(4)
    model.generation_config = tf.GenerationConfig(
        bos_token_id=1,
        pad_token_id=3,
        bad_words_ids=[[i] for i in words.convert_tokens_to_ids(["<image>", *SPECIAL])],
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
