"""A model folder is judged by names, JSON and headers; what is wrong is said with the way on."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from vlserve.models.errors import ModelError
from vlserve.models.folder import contents, model_folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
SHAPE = [3, 5]


def safetensors(*, header: bytes | None = None, data: bytes = bytes(60)) -> bytes:
    """A file with one tensor of 15 numbers in 32 bits."""
    if header is None:
        entry = {"dtype": "F32", "shape": SHAPE, "data_offsets": [0, 60]}
        header = json.dumps({"__metadata__": {"format": "pt"}, "a": entry}).encode()
    return struct.pack("<Q", len(header)) + header + data


def write(folder: Path, name: str, content: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / name).write_bytes(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that nothing is wrong with, as far as can be said without loading it."""
    folder = tmp_path / "model"
    write(folder, "config.json", {"model_type": "idefics2"})
    write(folder, "preprocessor_config.json", {})
    write(folder, "tokenizer.json", {})
    write(folder, "chat_template.jinja", b"{{ messages }}")
    write(folder, "model.safetensors", safetensors())
    return folder


def refused(path: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        contents(str(path))
    said = str(caught.value)
    assert said.startswith(f"model.path {str(path)!r}") or not str(path)
    return said


def test_a_folder_that_can_be_served(folder: Path) -> None:
    found = contents(str(folder))
    assert (found.folder, found.model_type, found.num_parameters) == (folder, "idefics2", 15)
    assert contents("embedded").num_parameters == 3_029_440


def test_several_files_of_weights(folder: Path) -> None:
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    write(
        folder, "model.safetensors.index.json", {"weight_map": dict(zip("abc", names, strict=True))}
    )
    (folder / "model.safetensors").rename(folder / names[0])
    for name in names[1:]:
        write(folder, name, safetensors())
    assert contents(str(folder)).num_parameters == 45
    (folder / names[1]).unlink()
    (folder / names[2]).unlink()
    assert f"2 of 3 files of weights are missing, {names[1]} and 1 more: " in refused(folder)


def test_home_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert contents("~/model").folder == folder
    assert "no such user has a home folder here" in refused("~nobody-of-that-name/model")


def indexed(folder: Path, index: object) -> None:
    (folder / "model.safetensors").unlink()
    write(folder, "model.safetensors.index.json", index)


Spoil = Callable[[Path], object]
SPOILED: dict[str, tuple[Spoil, str]] = {
    "no config": (
        lambda f: (f / "config.json").unlink(),
        "config.json is missing: download all files of the repository",
    ),
    "config is a pointer": (
        lambda f: write(f, "config.json", POINTER.encode()),
        "config.json is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "config is cut off": (lambda f: write(f, "config.json", b'{"model'), "config.json is not JSON"),
    "config is a list": (lambda f: write(f, "config.json", []), "is not a JSON object"),
    "no model type": (lambda f: write(f, "config.json", {}), "config.json names no model_type"),
    "another family": (
        lambda f: write(f, "config.json", {"model_type": "llama"}),
        "model type 'llama' is not served: take a model of a family that is served: gemma3, ",
    ),
    "code of its own": (
        lambda f: write(f, "config.json", {"model_type": "internvl_chat", "auto_map": {"A": "b"}}),
        "no code of a folder is ever run: take OpenGVLab/InternVL3-8B-hf",
    ),
    "unknown code of its own": (
        lambda f: write(f, "config.json", {"model_type": "new_vl", "auto_map": {"A": "b"}}),
        "no code of a folder is ever run: take a model of a family that is served: gemma3, ",
    ),
    "quantized": (
        lambda f: write(
            f,
            "config.json",
            {"model_type": "llava", "quantization_config": {"quant_method": "awq"}},
        ),
        "its weights are quantized (awq), which is not served: take the repository with",
    ),
    "no processor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "preprocessor_config.json is missing: download all .json files",
    ),
    "processor is a pointer": (
        lambda f: write(f, "preprocessor_config.json", POINTER.encode()),
        "preprocessor_config.json is a Git LFS pointer",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "it has no tokenizer, tokenizer.json is missing: download all",
    ),
    "tokenizer is a pointer": (
        lambda f: write(f, "tokenizer.json", POINTER.encode()),
        "tokenizer.json is a Git LFS pointer",
    ),
    "no chat template": (
        lambda f: (f / "chat_template.jinja").unlink(),
        "it has no chat template, chat_template.jinja is missing: download all",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "it holds no weights: download model.safetensors",
    ),
    "weights are a pointer": (
        lambda f: write(f, "model.safetensors", POINTER.encode()),
        "model.safetensors is a Git LFS pointer",
    ),
    "pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "its weights are in pytorch_model.bin only, a pickle, and reading one can run code: take",
    ),
    "GGUF beside the rest": (
        lambda f: (f / "model.safetensors").rename(f / "model-q4.gguf"),
        "its weights are in model-q4.gguf only: GGUF is not served; take the repository that",
    ),
    "weights are cut off": (
        lambda f: write(f, "model.safetensors", safetensors(data=bytes(59))),
        "model.safetensors is cut off, 1",
    ),
    "weights are too long": (
        lambda f: write(f, "model.safetensors", safetensors(data=bytes(61))),
        "model.safetensors is damaged, 1",
    ),
    "header is cut off": (
        lambda f: write(f, "model.safetensors", safetensors()[:40]),
        "model.safetensors is cut off within its header: download it again",
    ),
    "empty weights": (
        lambda f: write(f, "model.safetensors", b""),
        "model.safetensors is not a safetensors file: download it again",
    ),
    "a page instead of weights": (
        lambda f: write(f, "model.safetensors", b"<!doctype html><title>Sign in</title>"),
        "model.safetensors is not a safetensors file: download it again",
    ),
    "header is no JSON": (
        lambda f: write(f, "model.safetensors", safetensors(header=b"nothing")),
        "model.safetensors has a damaged header: download it again",
    ),
    "header without tensors": (
        lambda f: write(f, "model.safetensors", safetensors(header=b"{}")),
        "model.safetensors has a damaged header",
    ),
    "index is a pointer": (
        lambda f: indexed(f, POINTER.encode()),
        "model.safetensors.index.json is a Git LFS pointer",
    ),
    "index names a file elsewhere": (
        lambda f: indexed(f, {"weight_map": {"a": "../x.safetensors"}}),
        "model.safetensors.index.json names no files of weights",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILED.values(), ids=SPOILED.keys())
def test_what_is_wrong_is_said_with_the_way_on(folder: Path, spoil: Spoil, said: str) -> None:
    spoil(folder)
    assert said in refused(folder)


def test_a_path_that_is_no_folder(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, "model.GGUF", b"GGUF")
    assert "GGUF is not served; take the repository" in refused(tmp_path / "model.GGUF")
    assert f"name the folder that it is in, {str(folder)!r}" in refused(folder / "config.json")
    assert f"no such folder; close to it: {folder}" in refused(tmp_path / "modle")
    assert refused(tmp_path / "x").endswith("there is no such folder")
    assert refused("a" * 5000).endswith("there is no such folder")
    assert refused("nul\0").endswith("there is no such folder")
    assert refused("").startswith("model.path is empty")


def test_a_folder_around_or_beside_a_model(folder: Path, tmp_path: Path) -> None:
    assert f"the model is one deeper, name {str(folder)!r}" in refused(tmp_path)
    cached = tmp_path / "models--a--b" / "snapshots" / "0123"
    cached.parent.mkdir(parents=True)
    folder.rename(cached)
    assert f"name {str(cached)!r}" in refused(tmp_path / "models--a--b")
    write(tmp_path / "adapter", "adapter_config.json", {})
    assert "it is an adapter (LoRA), not a model" in refused(tmp_path / "adapter")
    write(tmp_path / "gguf", "model-q4.gguf", b"GGUF")
    assert "it holds model-q4.gguf, and GGUF is not served" in refused(tmp_path / "gguf")


def test_the_embedded_model_is_inside() -> None:
    assert (model_folder("embedded") / "config.json").is_file()
