"""What a count says without the model is what the model then takes, in every family."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.asked import picture, request
from tests.engines.collect import answer, running
from tests.families import FAMILIES, write_family
from vlserve.types import Image, Message, Request, Role, SamplingParams

# Of a picture twice as wide as high, in the families' own ways: quarters and the whole; two tiles
# in a row and the whole; or one.
TILES = {
    "idefics2": 5,
    "idefics3": 3,
    "smolvlm": 3,
    "internvl": 3,
    "llava": 1,
    "llava_next": 3,
    "qwen2_5_vl": 1,
    "qwen3_vl": 1,
    "gemma3": 1,
}


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_count_is_what_the_model_takes(family: str, tmp_path: Path) -> None:
    rng = random.Random(family)
    short = SamplingParams(max_tokens=1)
    num_pictures = 0
    async with running(write_family(family, tmp_path / "model")) as engine:
        for i in range(6):
            wanted = request(rng, f"r{i}", sampling=short)
            count = await engine.count(wanted)
            usage = (await answer(engine, wanted)).usage
            assert count.prompt_tokens == usage.prompt_tokens
            assert count.image_tokens == usage.image_tokens
            pictures = [each for message in wanted.messages for each in message.pictures()]
            for each, counted in zip(pictures, count.images, strict=True):
                inputs = engine.intake.adapter.prompt_image(each).inputs
                with torch.inference_mode():
                    assert counted.tokens == engine.intake.adapter.encode(inputs).num_tokens
                assert (counted.width, counted.height) == (each.width, each.height)
                num_pictures += 1
        wide = Image(np.full((50, 100, 3), 90, np.uint8), "wide")
        turn = Message(Role.USER, (wide, picture(rng), "what is it?"))
        count = await engine.count(Request("wide", (turn,), short))
    assert count.images[0].tiles == TILES[family]
    assert num_pictures > 3
