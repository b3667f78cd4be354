"""A sequence's rotary positions do not depend on who else is in a step."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.engines.collect import running
from tests.families import write_family
from vlserve.models.base import ModelAdapter
from vlserve.models.catalog import load
from vlserve.models.rope import depends_on_longest, fix_dynamic_rope

LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 512,
}


def with_rope(folder: Path, rope: dict[str, Any]) -> str:
    file = write_family("internvl", folder) / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["rope_parameters"] = rope
    file.write_text(json.dumps(config))
    return str(folder)


def rotary(adapter: ModelAdapter) -> Any:
    return adapter.decoder.rotary_emb


def test_dynamic_rope_is_the_fixed_one_within_the_context(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}
    dynamic = load(with_rope(tmp_path / "dynamic", rope), device=cpu, dtype=torch.float32)
    rope["rope_type"] = "default"
    fixed = load(with_rope(tmp_path / "fixed", rope), device=cpu, dtype=torch.float32)
    last = dynamic.text_config.max_position_embeddings - 1
    numbers = torch.zeros(1, 3, 16)
    positions = torch.tensor([[0, 7, last]])
    for got, wanted in zip(
        rotary(dynamic)(numbers, positions),
        rotary(fixed)(numbers, positions),
        strict=True,
    ):
        assert torch.equal(got, wanted)
    # Which reads no number back: tensors of the meta device have none.
    rotary(dynamic)(numbers.to("meta"), positions.to("meta"))


def test_kinds_of_rope_by_layer() -> None:
    decoder: Any = nn.ModuleList([nn.Identity(), nn.Identity()])
    decoder[0].rope_type = "yarn"
    decoder[1].rope_type = {"full_attention": "dynamic", "sliding_attention": "linear"}
    assert not depends_on_longest(decoder)
    fix_dynamic_rope(decoder)
    assert decoder[0].rope_type == "yarn"
    assert decoder[1].rope_type == {"full_attention": "default", "sliding_attention": "linear"}
    decoder[1].rope_type = {"full_attention": "longrope"}
    assert depends_on_longest(decoder)


async def test_longrope_is_served_one_at_a_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_rope(tmp_path / "long", LONG)
    with caplog.at_level(logging.WARNING):
        async with running(Path(folder)) as engine:
            assert not engine.info.is_batched
    assert "LongRoPE changes every sequence's positions with the longest one" in caplog.text
