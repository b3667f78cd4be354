"""The tokenizer of the embedded model: byte-level BPE that never joins a digit or a capital."""

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from training.model import TokenizerFacts
from training.oracle import CONCEPTS
from training.pairs import ask_pair
from training.questions import KINDS, ask
from training.scenes import random_scene
from training.style import varied

SPECIAL = (
    "<unk>", "<s>", "</s>", "<pad>", "<fake_token_around_image>", "<image>", "<end_of_utterance>",
)  # fmt: skip
UNK, BOS, EOS, PAD, FAKE, IMAGE, END = range(len(SPECIAL))
VOCABULARY = 640
CORPUS_SEED = 7
# As the template of Idefics2-8B, but the pictures of a message stand before its words, whatever
# order the caller sent them in: that is the order the model is trained on.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() + ':' }}"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ ' ' + part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def corpus(lines: int = 60_000) -> Iterator[str]:
    """Questions and answers as the model will see them, without printed strings."""
    rng = random.Random(CORPUS_SEED)
    while lines:
        scenes = (random_scene(rng), random_scene(rng))
        if rng.random() < 0.2:
            turn = ask_pair(scenes, rng)
        else:
            asked = ask(scenes[0], rng.choice(KINDS), rng)
            if asked is None:
                continue
            turn = asked
        lines -= 1
        yield f"User: {varied(turn.question, rng)}"
        if not any(scene.text for scene in scenes):
            yield f"Assistant: {turn.answer}"


def train_tokenizer() -> Tokenizer:
    """The tokenizer, the same on every run."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNK]))
    isolated = pre_tokenizers.Split(Regex("[A-Z0-9]"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [isolated, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # Answers follow 'Assistant:' with a space, which nobody wants to read.
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The frozen tokenizer of a model folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def facts(tokenizer: Tokenizer) -> TokenizerFacts:
    """What the model must know of `tokenizer`.

    Raises ValueError when a concept is not one token.
    """
    concept_tokens: dict[int, int] = {}
    for index, concept in enumerate(CONCEPTS[:-1]):
        text = concept if len(concept) == 1 else f" {concept}"
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) != 1:
            raise ValueError(f"{concept!r} is not one token")
        concept_tokens[ids[0]] = index
    return TokenizerFacts(tokenizer.get_vocab_size(), IMAGE, PAD, BOS, EOS, concept_tokens)
