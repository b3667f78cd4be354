"""A processor for a model without a folder: pictures as Idefics2's own, a byte a token of text."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, Idefics2Processor, PreTrainedTokenizerFast
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from vlserve.models.idefics import Idefics2

FIRST = ("<unk>", "<s>", "</s>")
# At the end of the vocabulary, as in Idefics2.
LAST = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
CHAT_TEMPLATE = (
    "{% for turn in messages %}{{ turn['role'].capitalize() }}:"
    "{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def make_adapter(model: Any) -> Idefics2:
    """The model with a processor of its sizes, as the engine has one from a folder. Answers end at
    their longest: no token ends them."""
    config = model.config
    words = _tokenizer(config.text_config.vocab_size)
    side = config.vision_config.image_size
    images = Idefics2ImageProcessorPil(
        size={"shortest_edge": side * 378 // 980, "longest_edge": side}, do_image_splitting=False
    )
    processor = Idefics2Processor(
        images,
        words,
        image_seq_len=config.perceiver_config.resampler_n_latents,
        chat_template=CHAT_TEMPLATE,
    )
    fake, image, _ = (words.convert_tokens_to_ids(name) for name in LAST)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=1, pad_token_id=0, bad_words_ids=[[image], [fake]]
    )
    return Idefics2(model, processor)


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Bytes, and words that nobody writes but a model with random weights says."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    num_words = vocab_size - len(FIRST) - len(letters) - len(LAST)
    names = [*FIRST, *letters, *(f"Ġw{index}" for index in range(num_words)), *LAST]
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    backend.add_special_tokens([AddedToken(name, special=True) for name in (*FIRST, *LAST)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        unk_token="<unk>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<unk>",  # noqa: S106
        additional_special_tokens=list(LAST),
    )
