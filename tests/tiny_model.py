"""A small Idefics2 with random weights, whose answers depend on its pictures."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2Processor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics2.configuration_idefics2 import (
    Idefics2PerceiverConfig,
    Idefics2VisionConfig,
)
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

FAKE, IMAGE, END = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", FAKE, IMAGE, END]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TEXTS = [
    "User: what is in the picture? Assistant: a large red circle at the top left",
    "how many shapes are there? two: a blue square and a green star",
    "naïve café, 東京の写真, Привет, 😀 👩‍👩‍👧 😀",
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, so that characters beyond ASCII take several tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[A-Z0-9]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=340,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[FAKE, IMAGE, END],
    )


def write_tiny_model(
    folder: Path,
    *,
    eos: list[int] | None = None,
    num_kv_heads: int = 1,
    sliding_window: int | None = None,
    do_image_splitting: bool = False,
) -> Path:
    """A model folder, loaded as any other."""
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    config = Idefics2Config(
        text_config=MistralConfig(
            vocab_size=size,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=num_kv_heads,
            head_dim=32,
            max_position_embeddings=512,
            sliding_window=sliding_window,
            pad_token_id=3,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        ),
        vision_config=Idefics2VisionConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=56,
            patch_size=14,
        ),
        perceiver_config=Idefics2PerceiverConfig(
            hidden_size=64,
            resampler_n_latents=8,
            resampler_depth=1,
            resampler_n_heads=2,
            resampler_head_dim=32,
            num_key_value_heads=1,
        ),
        image_token_id=SPECIAL.index(IMAGE),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Idefics2ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The library's small range makes every picture look alike.
            if parameter.ndim > 1:
                scale = 1.5 * parameter[0].numel() ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            elif "latents" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        # Logits far enough apart that a rounding error does not choose.
        model.lm_head.weight.mul_(4)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=1,
        eos_token_id=eos,
        pad_token_id=3,
        bad_words_ids=[[SPECIAL.index(IMAGE)], [SPECIAL.index(FAKE)]],
    )
    model.save_pretrained(folder)
    Idefics2Processor(
        Idefics2ImageProcessorPil(
            size={"shortest_edge": 28, "longest_edge": 56}, do_image_splitting=do_image_splitting
        ),
        tokenizer,
        image_seq_len=8,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder
