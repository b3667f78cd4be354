"""The folder of the embedded model: what it holds and how it is written and read."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessorPil,
    Idefics2Processor,
    PreTrainedTokenizerFast,
)

from training.model import build_model
from training.prompts import IMAGE_TOKENS
from training.tokenizer import (
    BOS,
    CHAT_TEMPLATE,
    END,
    EOS,
    FAKE,
    IMAGE,
    PAD,
    SPECIAL,
    facts,
    load_tokenizer,
    train_tokenizer,
)
from training.world import IMAGE_SIZE

MAX_NEW_TOKENS = 200


def write_processor(folder: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write the tokenizer (by default newly trained), chat template and processor settings."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer or train_tokenizer(),
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        pad_token=SPECIAL[PAD],
        additional_special_tokens=[SPECIAL[FAKE], SPECIAL[IMAGE], SPECIAL[END]],
        model_max_length=2048,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    side = {"shortest_edge": IMAGE_SIZE, "longest_edge": IMAGE_SIZE}
    images = Idefics2ImageProcessorPil(size=side, do_image_splitting=False)
    processor = Idefics2Processor(
        images, fast, image_seq_len=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE
    )
    processor.save_pretrained(folder)
    # Other tools look for the picture settings and the chat template in files of their own.
    settings = images.to_dict() | {"image_processor_type": "Idefics2ImageProcessor"}
    settings["processor_class"] = "Idefics2Processor"
    _write_json(folder / "preprocessor_config.json", settings)
    _edit_json(folder / "tokenizer_config.json", chat_template=CHAT_TEMPLATE)


def generation_config() -> GenerationConfig:
    """Greedy, ending at the end of the answer, never emitting a picture's tokens."""
    return GenerationConfig(
        bos_token_id=BOS,
        eos_token_id=[EOS, END],
        pad_token_id=PAD,
        bad_words_ids=[[IMAGE], [FAKE]],
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )


def write_model(folder: Path, weights: Mapping[str, torch.Tensor], seed: int = 0) -> None:
    """Write config and float16 weights; `weights` must name every parameter of the model.

    Raises RuntimeError for a missing or an unknown name.
    """
    model = build_model(seed, facts(load_tokenizer(folder)))
    model.load_state_dict(dict(weights), strict=True)
    model.generation_config = generation_config()
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rope_theta"] = config["text_config"]["rope_parameters"]["rope_theta"]
    _write_json(folder / "config.json", config)


def load(folder: Path) -> tuple[Idefics2ForConditionalGeneration, Idefics2Processor]:
    """The model in float32 and its processor, as any user of the folder loads them."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), processor


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _edit_json(path: Path, **values: object) -> None:
    _write_json(path, json.loads(path.read_text()) | values)
