"""A model that the engine would answer for wrongly is refused when it is loaded."""

from pathlib import Path
from typing import Any

import pytest

from tests.engines.collect import running
from tests.families import write_family
from vlserve.engines.native import attention
from vlserve.models.base import ModelAdapter
from vlserve.models.errors import ModelError
from vlserve.models.gemma import Gemma3


async def test_a_family_without_what_it_needs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_family("gemma3", tmp_path / "model")
    monkeypatch.setattr(Gemma3, "blocks", ModelAdapter.blocks)
    with pytest.raises(ModelError, match="its logits differ"):
        async with running(folder):
            pass


async def test_a_decoder_that_changes_its_scores_is_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = attention.slot_attention

    def capped(*args: Any, **options: Any) -> Any:
        return plain(*args, **options, softcap=50.0)

    monkeypatch.setattr("vlserve.engines.native.runner.slot_attention", capped)
    with pytest.raises(ModelError, match="attention with softcap is not batched"):
        async with running(tiny_folder):
            pass
