"""`engine.dtype` auto is the checkpoint's own format; what a format cannot hold is said at load."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families import write_family
from vlserve.engines.native.engine import NativeEngine
from vlserve.models.catalog import model_dtype
from vlserve.models.dtypes import auto_dtype, chosen_dtype, stored_dtype
from vlserve.models.errors import ModelError
from vlserve.settings import EngineSettings, ModelSettings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
def test_auto_is_the_checkpoints_own_on_a_gpu(stored: str) -> None:
    assert auto_dtype("cuda", stored) == stored
    assert auto_dtype("cpu", stored) == "float32"
    without = auto_dtype("cuda", stored, has_bfloat16=False)
    assert without == ("float16" if stored == "bfloat16" else stored)


def test_bfloat16_forced_into_float16_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for asked, device, has_bfloat16 in (
        ("auto", "cuda", True),
        ("auto", "cpu", True),
        ("float32", "cuda", True),
        ("bfloat16", "cuda", False),
    ):
        chosen_dtype(asked, device, "bfloat16", has_bfloat16=has_bfloat16)
    chosen_dtype("float16", "cuda", "float16")
    chosen_dtype("float16", "cuda", "float32")
    assert not caplog.records
    assert chosen_dtype("float16", "cpu", "bfloat16") == "float16"
    assert "bfloat16 and is served in float16, since engine.dtype is float16" in caplog.text
    caplog.clear()
    assert chosen_dtype("auto", "cuda", "bfloat16", has_bfloat16=False) == "float16"
    assert "since this GPU has no bfloat16" in caplog.text


def stored(folder: Path, whole: str | None, text: str | None, tensors: torch.dtype) -> None:
    """Write what a checkpoint says of its format, and in what its tensors are."""
    config = json.loads((folder / "config.json").read_text())
    for part, name in ((config, whole), (config["text_config"], text)):
        for key in ("dtype", "torch_dtype"):
            part.pop(key, None)
        if name is not None:
            part["dtype"] = name
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    halves = {name: tensor.to(tensors) for name, tensor in weights.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("said", "tensors", "wanted"),
    [
        (("bfloat16", None), torch.float32, torch.bfloat16),
        ((None, "float16"), torch.float32, torch.float16),
        ((None, None), torch.bfloat16, torch.bfloat16),
        ((None, None), torch.float32, torch.float32),
    ],
)
def test_the_format_is_read_off_the_folder(
    said: tuple[str | None, str | None],
    tensors: torch.dtype,
    wanted: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_family("llava", tmp_path / "model")
    stored(folder, *said, tensors)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert model_dtype(str(folder), "auto", CUDA) is wanted
    assert model_dtype(str(folder), "auto", CPU) is torch.float32
    assert model_dtype(str(folder), "float32", CUDA) is torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    emulated = torch.float16 if wanted is torch.bfloat16 else wanted
    assert model_dtype(str(folder), "auto", CUDA) is emulated


def test_a_folder_that_says_nothing_known_is_float32(tmp_path: Path) -> None:
    class Silent:
        dtype = None

        def get_text_config(self) -> "Silent":
            return self

    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2, dtype=torch.int8)}, file)
    assert stored_dtype(tmp_path, Silent()) == "float32"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is cut off"):
        stored_dtype(tmp_path, Silent())


async def test_numbers_that_are_not_finite_are_an_error_at_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Gemma 3's published weights pass 65,504 in their sums, and so does this one's."""
    folder = write_family("gemma3", tmp_path / "model")
    stored(folder, "bfloat16", None, torch.bfloat16)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "layers.1.post_feedforward_layernorm" in name:
            weights[name] += 3e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def engine(dtype: str) -> NativeEngine:
        settings = EngineSettings.model_validate({"device": "cpu", "dtype": dtype, "cache_mib": 16})
        return NativeEngine(ModelSettings(path=str(folder)), settings)

    fitting = engine("bfloat16")
    await fitting.start()
    assert fitting.info.dtype == "bfloat16"
    await fitting.close()
    narrow = engine("float16")
    with caplog.at_level(logging.WARNING), pytest.raises(ModelError) as raised:
        await narrow.start()
    assert str(raised.value) == (
        "the model's logits are NaN or infinite in float16: its weights are damaged, or its numbers"
        " are larger than float16 holds, which engine.dtype bfloat16, float32 may hold"
    )
    assert "since engine.dtype is float16" in caplog.text
    assert "one at a time" not in caplog.text
    await narrow.close()
