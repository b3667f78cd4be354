"""A model that the engine would answer for wrongly is served by its own forward pass."""

import asyncio
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from tests.asked import request
from tests.engines.collect import answer, running
from tests.families import write_family
from tests.oracle import Oracle
from vlserve.engines.native.cpu import slot_attention as attention
from vlserve.models.base import ModelAdapter
from vlserve.models.gemma import Gemma3


async def test_a_family_without_what_it_needs_is_served_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_family("gemma3", tmp_path / "model")
    monkeypatch.setattr(Gemma3, "blocks", ModelAdapter.blocks)
    await assert_one_at_a_time(folder, caplog, "its logits differ")


async def test_a_decoder_that_changes_its_scores_is_served_one_at_a_time(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = attention.slot_attention

    def capped(*args: Any, **options: Any) -> Any:
        return plain(*args, **options, softcap=50.0)

    monkeypatch.setattr("vlserve.engines.native.cpu.runner.slot_attention", capped)
    await assert_one_at_a_time(tiny_folder, caplog, "attention with softcap is not batched")


async def assert_one_at_a_time(folder: Path, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    rng = random.Random(3)
    requests = [request(rng, str(i)) for i in range(8)]
    oracle = Oracle(folder)
    with caplog.at_level(logging.WARNING):
        async with running(folder) as engine:
            answers = await asyncio.gather(*(answer(engine, each) for each in requests))
            assert not engine.info.is_batched
            assert engine.info.max_running == 1
            assert engine.load().num_free_slots == 1
    assert f"cannot be batched, requests run one at a time: {reason}" in caplog.text
    wanted = [oracle.answer(each.messages, each.sampling) for each in requests]
    assert [each.token_ids for each in answers] == wanted
