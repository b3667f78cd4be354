"""What is loaded, and what is refused and how."""

import json
from pathlib import Path

import pytest
import torch

from vlserve.models.catalog import load
from vlserve.models.errors import ModelError


def refused(path: str) -> str:
    with pytest.raises(ModelError) as caught:
        load(path, device=torch.device("cpu"), dtype=torch.float32)
    return str(caught.value)


def test_a_model_type_without_adapter_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    said = refused(str(tmp_path))
    assert said.startswith("model type 'llama' is not supported; supported: gemma3, idefics2, ")


@pytest.mark.parametrize("config", [{}, {"model_type": "never heard of"}])
def test_a_config_that_transformers_does_not_know_is_refused(
    config: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "does not load" in refused(str(tmp_path))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "config.json" in refused(str(tmp_path))


def test_weights_that_are_not_safetensors_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for file in tiny_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert "does not load" in refused(str(tmp_path))
