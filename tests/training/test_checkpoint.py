from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Idefics2ForConditionalGeneration, Idefics2Processor

from training.cases import CONDITIONS, MEASURES, cases
from training.checkpoint import load
from training.evaluate import answers
from training.example import SCENE
from training.questions import description

FOLDER = Path(__file__).parents[2] / "src" / "vlserve" / "models" / "embedded"
Loaded = tuple[Idefics2ForConditionalGeneration, Idefics2Processor]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(FOLDER)


def test_is_small_and_half_precision() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 12_000_000


def test_describes_the_example(loaded: Loaded) -> None:
    model, processor = loaded
    content = [{"type": "image"}, {"type": "text", "text": "Describe the image"}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)  # type: ignore[arg-type]  # Transformers' own types
    image = Image.open(FOLDER / "example.png")
    inputs = processor(text=text, images=[image], return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]  # type: ignore[misc]  # Transformers' own types
    assert processor.decode(made, skip_special_tokens=True) == description(SCENE)


def test_a_batch_answers_like_each_alone(loaded: Loaded) -> None:
    model, processor = loaded
    asked = [case for m in MEASURES[:10] for case in cases(m, CONDITIONS[0], 2)]
    together = answers(model, processor, asked)
    assert together == [answers(model, processor, [case])[0] for case in asked]
