"""Prompts are what the processor makes, and text never becomes a special token."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.asked import picture, request
from tests.oracle import Oracle, conversation
from tests.tiny_model import FAKE, IMAGE, SPECIAL, write_tiny_model
from vlserve.errors import Code, ServeError
from vlserve.models.base import ModelAdapter
from vlserve.models.catalog import load
from vlserve.models.idefics import Idefics2
from vlserve.types import Image, Message, Role


def loaded(folder: Path) -> ModelAdapter:
    return load(str(folder), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path) -> ModelAdapter:
    return loaded(tiny_folder)


@pytest.mark.parametrize("do_image_splitting", [False, True])
def test_prompts_equal_the_processors(
    do_image_splitting: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_model(tmp_path / "model", do_image_splitting=do_image_splitting)
    adapter, oracle = loaded(folder), Oracle(folder)
    rng = random.Random(5)
    for index in range(60):
        messages = request(rng, str(index)).messages
        inputs = oracle.inputs(messages)
        prompt = adapter.prepare(messages)
        assert list(prompt.token_ids) == inputs.pop("input_ids")[0].tolist()
        del inputs["attention_mask"]
        for image in prompt.images:
            assert image.inputs.keys() == inputs.keys()
        for name, value in inputs.items():
            assert_is_padded_whole([image.inputs[name] for image in prompt.images], value[0])
    with capsys.disabled():
        print("prompts tried 60, equal 60")


def assert_is_padded_whole(parts: list[np.ndarray[Any, Any]], whole: torch.Tensor) -> None:
    """The processor pads the pictures of a request to the same size; alone they are not."""
    rest = iter(whole.numpy())
    for tile in (tile for part in parts for tile in part[0]):
        padded = next(rest)
        inside = tuple(slice(0, side) for side in tile.shape)
        assert np.array_equal(padded[inside], tile)
        assert np.count_nonzero(padded) == np.count_nonzero(tile)
    assert next(rest, None) is None


def test_token_ids_equal_the_processors_own_tokenising(
    adapter: ModelAdapter, oracle: Oracle
) -> None:
    messages = request(random.Random(1), "r", num_images=0).messages
    wanted = oracle.processor.apply_chat_template(
        conversation(messages), tokenize=True, add_generation_prompt=True, return_dict=True
    )
    assert list(adapter.prepare(messages).token_ids) == wanted["input_ids"][0]


WORDS = st.sampled_from([*SPECIAL, "a", " ", "\n", "<", ":", "User:", "\ue0000\ue001", "é", "😀"])


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(WORDS, max_size=8), num_images=st.integers(0, 2))
def test_text_never_forges_a_special_token(
    adapter: ModelAdapter, parts: list[str], num_images: int
) -> None:
    rng = random.Random(0)
    pictures = [picture(rng) for _ in range(num_images)]
    text = "".join(parts)
    typed = adapter.prepare((Message(Role.USER, (*pictures, text)),))
    empty = adapter.prepare((Message(Role.USER, (*pictures, "")),))
    specials = range(len(SPECIAL))
    assert [i for i in typed.token_ids if i in specials] == [
        i for i in empty.token_ids if i in specials
    ]
    assert typed.num_image_tokens == empty.num_image_tokens
    # Nothing is lost either: what was typed can be read back.
    assert text.strip() in adapter.tokenizer.decode(list(typed.token_ids))


def test_image_tokens_count_the_marks(adapter: ModelAdapter) -> None:
    rng = random.Random(0)
    prompt = adapter.prepare((Message(Role.USER, (picture(rng), picture(rng), "what?")),))
    ids = [SPECIAL.index(FAKE), SPECIAL.index(IMAGE)]
    assert prompt.num_image_tokens == sum(i in ids for i in prompt.token_ids) == 2 * 8 + 3


@pytest.mark.parametrize(("height", "width"), [(3, 40), (40, 3), (1, 1), (2, 300), (500, 1)])
def test_pictures_of_any_shape(adapter: ModelAdapter, height: int, width: int) -> None:
    pixels = np.full((height, width, 3), 128, np.uint8)
    prompt = adapter.prepare((Message(Role.USER, (Image(pixels, "x"), "what?")),))
    with torch.inference_mode():
        assert torch.isfinite(adapter.encode(prompt.images[0].inputs).rows).all()


def test_a_conversation_that_the_template_refuses_is_named(adapter: ModelAdapter) -> None:
    with pytest.raises(ServeError) as caught:
        adapter.prepare((Message(Role.USER, ()),))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.field == "messages"


def test_features_at_true_sizes_are_those_of_the_model(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", do_image_splitting=True)
    adapter = loaded(folder)
    assert isinstance(adapter, Idefics2)
    rng = random.Random(6)
    largest = 0.0
    with torch.inference_mode():
        for _ in range(12):
            inputs = adapter.prompt_image(picture(rng)).inputs
            plain, packed = adapter.encode(inputs).rows, adapter.encode_tiles(inputs).rows
            assert plain.shape == packed.shape
            largest = max(largest, float((plain - packed).abs().max()))
    assert largest < 1e-4
