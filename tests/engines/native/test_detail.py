"""A picture of low detail is what a family's own processor makes of it when told to look once."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from tests.asked import QUESTIONS
from tests.engines.collect import answer, running
from tests.families import FAMILIES, write_family
from tests.oracle import Oracle, conversation
from vlserve.engines.native.runners.self_check import NotBatchedError
from vlserve.errors import ServeError
from vlserve.media.room import image
from vlserve.types import Detail, Image, Message, Request, Role, SamplingParams

# How each family's documentation says it. Those that are missing know but one way.
ONCE: Mapping[str, dict[str, Any]] = {
    "idefics3": {"do_image_splitting": False},
    "smolvlm": {"do_image_splitting": False},
    "internvl": {"crop_to_patches": False},
    "qwen2_5_vl": {"size": {"shortest_edge": 56 * 56, "longest_edge": 512 * 512}},
    "qwen3_vl": {"size": {"shortest_edge": 56 * 56, "longest_edge": 512 * 512}},
}
HAS_TILES = {"idefics2", *ONCE}
PLAIN = SamplingParams(max_tokens=12)


def large(seed: int, detail: Detail) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (640, 900, 3), dtype=np.uint8)
    return replace(image(pixels), detail=detail)


def generated(oracle: Oracle, family: str, turn: Message[Image]) -> list[int]:
    """What `generate` says of pictures looked at once."""
    text = oracle.processor.apply_chat_template(
        conversation((turn,)), tokenize=False, add_generation_prompt=True
    )
    pictures = [PILImage.fromarray(picture.pixels) for picture in turn.pictures()]
    if family == "idefics2":  # it takes no option in a call: its tokens follow what its file says
        oracle.processor.image_processor.do_image_splitting = False
    inputs = oracle.processor(
        text=text, images=[pictures], return_tensors="pt", **ONCE.get(family, {})
    )
    with torch.inference_mode():
        ids = oracle.model.generate(**inputs, do_sample=False, max_new_tokens=PLAIN.max_tokens)
    new: list[int] = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return new


def written(family: str, folder: Path) -> Path:
    """A model that takes pictures of the size that these are."""
    write_family(family, folder)
    if family.startswith("qwen"):
        file = folder / "processor_config.json"
        settings = json.loads(file.read_text())
        settings["image_processor"]["size"]["longest_edge"] = 900 * 900
        file.write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
async def test_low_detail_is_one_look(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(family, tmp_path / "model")
    seen: dict[Detail, int] = {}
    async with running(folder) as engine:
        for detail in Detail:  # the same picture: what was seen of it closely is not taken for low
            asked = Message(Role.USER, (large(1, detail), QUESTIONS[0]))
            seen[detail] = (await engine.count(Request("", (asked,)))).image_tokens
            answered = await answer(engine, Request(detail, (asked,), PLAIN))
            assert answered.usage.image_tokens == seen[detail]
        two = Message(Role.USER, (large(1, Detail.LOW), large(2, Detail.LOW), QUESTIONS[1]))
        of_two = await answer(engine, Request("two", (two,), PLAIN))
        mixed = Message(Role.USER, (large(1, Detail.LOW), "and", large(1, Detail.AUTO), "?"))
        of_mixed = await engine.count(Request("mixed", (mixed,)))
    oracle = Oracle(folder)
    assert answered.token_ids == generated(oracle, family, asked)
    assert of_two.token_ids == generated(oracle, family, two)
    assert of_mixed.image_tokens == sum(seen.values())
    assert (seen[Detail.LOW] < seen[Detail.AUTO]) == (family in HAS_TILES)
    with capsys.disabled():
        print(f"{family}: {seen[Detail.AUTO]} tokens a picture, {seen[Detail.LOW]} of low detail")


@pytest.mark.parametrize("family", ["idefics2", "internvl"])
async def test_the_control_looks_closely(family: str, tmp_path: Path) -> None:
    folder = written(family, tmp_path / "model")
    asked = Message(Role.USER, (large(1, Detail.LOW), QUESTIONS[0]))
    with mock.patch("vlserve.models.base.at_a_glance", lambda processor: processor):
        async with running(folder) as engine:
            answered = await answer(engine, Request("", (asked,), PLAIN))
    assert answered.token_ids != generated(Oracle(folder), family, asked)


@pytest.mark.parametrize(("family", "is_taken"), [("llava", True), ("idefics3", False)])
async def test_a_model_that_is_not_batched_takes_two_details_where_they_are_one(
    family: str, is_taken: bool, tmp_path: Path
) -> None:
    """A picture beside a video's frames, say."""
    folder = written(family, tmp_path / "model")
    mixed = Message(Role.USER, (large(1, Detail.LOW), "and", large(2, Detail.AUTO), "?"))
    refusing = mock.Mock(side_effect=NotBatchedError("on purpose"))
    with mock.patch("vlserve.engines.native.loading.check_batching", refusing):
        async with running(folder) as engine:
            assert not engine.info.is_batched
            if is_taken:
                answered = await answer(engine, Request("", (mixed,), PLAIN))
                assert answered.token_ids == generated(Oracle(folder), family, mixed)
            else:
                with pytest.raises(ServeError, match="takes pictures of one detail"):
                    await answer(engine, Request("", (mixed,), PLAIN))
