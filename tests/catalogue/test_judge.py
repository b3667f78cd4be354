"""What is said of a model before anything heavy is imported."""

from pathlib import Path
from typing import Any

import pytest

from tests.models.test_folder import safetensors, write
from vlserve.catalogue import judge as judging
from vlserve.catalogue.judge import judge
from vlserve.catalogue.machine import Memory
from vlserve.models.errors import ModelError
from vlserve.settings import EngineSettings, ModelSettings

GIB = 2**30


def refused(path: str | Path, **engine: Any) -> str:
    with pytest.raises(ModelError) as caught:
        judge(ModelSettings(path=str(path)), EngineSettings(**engine))
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two thousand million parameters, by its header; the file has holes."""
    folder = tmp_path / "model"
    num_bytes = 4 * 2**30
    header = (
        b'{"a": {"dtype": "F16", "shape": [2, 1073741824], "data_offsets": [0, %d]}}' % num_bytes
    )
    for name in ("preprocessor_config.json", "tokenizer.json", "chat_template.jinja"):
        write(folder, name, {})
    write(folder, "config.json", {"model_type": "llava"})
    write(folder, "model.safetensors", safetensors(header=header, data=b""))
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(8 + len(header) + num_bytes)
    return folder


@pytest.mark.parametrize("path", ["qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct", "QWEN3-VL-2B"])
def test_a_name_that_is_known_is_no_folder(path: str) -> None:
    said = refused(path)
    assert said.startswith(f"model.path {path!r} is a name, not a folder: nothing is fetched. ")
    assert "Download Qwen/Qwen3-VL-2B-Instruct into a folder and name that folder" in said
    assert "`vlserve models qwen3-vl-2b` says which files" in said


def test_other_names() -> None:
    assert "there is no such folder, and nothing is fetched" in refused("org/model")
    assert "no code" not in refused("org/model")
    assert "LMDeploy serves it" in refused("internvl2.5-78b")
    assert "write 'embedded'" in refused("Embedded")
    assert refused("/nowhere/at/all").endswith("there is no such folder")


def test_a_folder_of_a_known_name_is_judged_as_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Qwen" / "Qwen3-VL-2B-Instruct").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "config.json is missing" in refused("Qwen/Qwen3-VL-2B-Instruct")


def test_one_that_is_too_large_is_refused_with_what_fits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "may_have_gpu", lambda: False)

    def with_memory(num_bytes: int) -> None:
        monkeypatch.setattr(judging, "main_memory", lambda: Memory("cpu", num_bytes))

    with_memory(8 * GIB)
    said = refused(folder)
    assert "is too large for this machine: 8.0 GiB of weights in float32 and 512.0 MiB of" in said
    assert said.endswith(
        "nine tenths of 8.0 GiB are to be had: --engine.dtype bfloat16 takes 4.0 GiB"
    )
    judge(ModelSettings(path=str(folder)), EngineSettings(dtype="bfloat16"))
    assert "and 4.0 GiB of cache (engine.cache_mib)" in refused(
        folder, dtype="bfloat16", cache_mib=4096
    )
    with_memory(4 * GIB)
    assert refused(folder).endswith("take a smaller one, `vlserve models` says which fit here")
    with_memory(10 * GIB)
    judge(ModelSettings(path=str(folder)), EngineSettings())


def test_what_a_gpu_holds_is_left_to_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "may_have_gpu", lambda: True)
    monkeypatch.setattr(judging, "main_memory", lambda: Memory("cpu", GIB))
    judge(ModelSettings(path=str(folder)), EngineSettings())
    assert "is too large for this machine" in refused(folder, device="cpu")


def test_an_engine_without_a_model_wants_no_folder() -> None:
    judge(ModelSettings(path="/nowhere"), EngineSettings(kind="echo"))
