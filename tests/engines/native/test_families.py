"""Every family's tokens are `generate`'s, whatever else runs."""

import random
from pathlib import Path

import pytest

from tests.asked import picture
from tests.engines.collect import answer, recorded_logits, running
from tests.engines.native.trial import tried
from tests.families import FAMILIES, write_family
from vlserve.types import Message, Request, Role, SamplingParams


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_family_tried_hard(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = await tried(family, write_family(family, tmp_path / "model"))
    with capsys.disabled():
        print(trial)
    assert trial.is_passed


@pytest.mark.parametrize("family", FAMILIES)
async def test_swapped_pictures_change_the_logits(family: str, tmp_path: Path) -> None:
    rng = random.Random(family)
    first, second = picture(rng), picture(rng)
    async with running(write_family(family, tmp_path / "model")) as engine:
        logits = recorded_logits(engine)
        for name, pictures in (("as drawn", (first, second)), ("swapped", (second, first))):
            turn = Message(Role.USER, (*pictures, "what is in the picture?"))
            await answer(engine, Request(name, (turn,), SamplingParams(max_tokens=1)))
    difference = (logits["as drawn"][0] - logits["swapped"][0]).abs().max()
    assert difference > 1e-3
