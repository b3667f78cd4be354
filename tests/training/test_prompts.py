import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import Idefics2Processor

from training.checkpoint import write_processor
from training.language import answer_loss
from training.model import build_model
from training.oracle import oracle
from training.prompts import PromptWriter
from training.rows import collate, random_row
from training.scenes import labels, random_scene
from training.tokenizer import facts, load_tokenizer

FOLDER = Path(__file__).parents[2] / "src" / "vlserve" / "models" / "embedded"


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in another order differ by less there."""
    monkeypatch.setattr("training.precision.is_half_fast", lambda: False)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(FOLDER)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Idefics2Processor:
    folder = tmp_path_factory.mktemp("processor")
    write_processor(folder, tokenizer)
    return Idefics2Processor.from_pretrained(folder)


def test_conversation_has_the_tokens_of_the_processor(
    processor: Idefics2Processor, tokenizer: Tokenizer
) -> None:
    image = Image.new("RGB", (30, 20), "red")
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": [{"type": "text", "text": "Any star?"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "There is no star."}]},
        {"role": "user", "content": [{"type": "text", "text": "read 42"}]},
        {"role": "assistant", "content": "42"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And here?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "HELLO"}]},
    ]
    text = processor.apply_chat_template(messages)  # type: ignore[arg-type]  # Transformers' own types
    ids = processor(text=text, images=[image, image])["input_ids"][0]
    turns = [
        ((0,), "Any star?", "There is no star."),
        ((), "read 42", "42"),
        ((1,), "And here?", "HELLO"),
    ]
    row = PromptWriter(tokenizer).conversation(turns, "Answer briefly.")
    assert row.ids == list(ids)[: len(row.ids)]
    assert tokenizer.decode(list(ids)[len(row.ids) :]).strip() == ""


def test_two_pictures_have_the_tokens_of_the_processor(
    processor: Idefics2Processor, tokenizer: Tokenizer
) -> None:
    image = Image.new("RGB", (30, 20), "red")
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)  # type: ignore[arg-type]  # Transformers' own types
    ids = list(processor(text=text, images=[image, image])["input_ids"][0])
    row = PromptWriter(tokenizer).packed((0, 1), [("Which?", "the first")])
    assert row.ids[: len(ids)] == ids


def test_packed_turns_are_independent(tokenizer: Tokenizer) -> None:
    model = build_model(1, facts(tokenizer)).eval()
    writer = PromptWriter(tokenizer)
    turns = [("what colour is it?", "red"), ("describe the image", "an empty picture.")]
    latents = oracle(labels(random_scene(random.Random(1)))[None])

    def loss_of(chosen: list[tuple[str, str]]) -> torch.Tensor:
        batch = collate([writer.packed((0,), chosen)])
        with torch.no_grad():
            return answer_loss(model, batch, latents)[0] * batch.weights.sum()

    together = loss_of(turns)
    alone = sum((loss_of([turn]) for turn in turns), start=torch.zeros(()))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing(tokenizer: Tokenizer) -> None:
    model = build_model(1, facts(tokenizer)).eval()
    writer = PromptWriter(tokenizer)
    scenes = [random_scene(random.Random(seed)) for seed in range(4)]
    latents = oracle(np.stack([labels(scene) for scene in scenes]))
    rows = [random_row(writer, scenes, index, random.Random(index), 0.5) for index in range(4)]
    total = torch.zeros(())
    with torch.no_grad():
        for row in rows:
            batch = collate([row])
            loss, _ = answer_loss(model, batch, latents[batch.pictures])
            total += loss * batch.weights.sum()
        batch = collate(rows)
        together, _ = answer_loss(model, batch, latents[batch.pictures])
    torch.testing.assert_close(together * batch.weights.sum(), total, rtol=1e-5, atol=1e-4)
