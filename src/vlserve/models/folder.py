"""A model folder, judged by its names, JSON files and tensor headers. Imports no torch."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from vlserve.models.errors import ModelError
from vlserve.models.families import ADAPTERS, EMBEDDED, SERVED
from vlserve.models.weights import GGUF, num_parameters, read_json

CONFIG: Final = "config.json"
# Files whose `auto_map` names code of the folder.
_CODE_NAMING: Final = (
    CONFIG,
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATES: Final = ("chat_template.jinja", "chat_template.json", "chat_templates")
# What to take in the place of families that only code of their own repository can load.
_INSTEAD: Final = {
    "internvl_chat": "OpenGVLab/InternVL3-8B-hf, or another InternVL whose name ends with -hf",
    "idefics": "HuggingFaceM4/idefics2-8b",
    "minicpmv": "Qwen/Qwen2.5-VL-7B-Instruct",
    "minicpmo": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen": "Qwen/Qwen2.5-VL-7B-Instruct",
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a folder holds that can be served: `num_parameters` are those of its weights."""

    folder: Path
    model_type: str
    num_parameters: int


def model_folder(path: str) -> Path:
    """The folder that `path` names: 'embedded' is the one inside the package, `~` the home folder.

    Raises ModelError where that is no folder with a `config.json`.
    """
    if path == EMBEDDED:
        return Path(__file__).parent / EMBEDDED
    if not path:
        raise ModelError("model.path is empty: name a folder, or 'embedded'")
    try:
        folder = Path(path).expanduser()
    except RuntimeError:
        raise ModelError(f"model.path {path!r}: no such user has a home folder here") from None
    if path.lower().endswith(".gguf"):
        raise ModelError(f"model.path {path!r}: {GGUF}")
    # Not by methods of Path, which raise for a name that is too long.
    if os.path.isfile(folder):  # noqa: PTH113
        raise ModelError(
            f"model.path {path!r} is a file: name the folder that it is in, {str(folder.parent)!r}"
        )
    if not os.path.isdir(folder):  # noqa: PTH112
        raise ModelError(f"model.path {path!r}: there is no such folder{_close_to(folder)}")
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError as error:
        raise ModelError(f"model.path {path!r} cannot be read: {error.strerror}") from None
    if CONFIG not in names:
        raise ModelError(
            f"model.path {path!r} is no model folder: {_without_config(folder, names)}"
        )
    return folder


def contents(path: str) -> Contents:
    """What is in the folder that `path` names.

    Raises ModelError for what is no model folder, for a family that is not served, and where a
    file that serving needs is missing, damaged or of another form.
    """
    folder = model_folder(path)
    try:
        return _contents(folder)
    except ModelError as error:
        raise ModelError(f"model.path {path!r}: {error}") from None
    except OSError as error:
        name = Path(str(error.filename)).name
        raise ModelError(f"model.path {path!r}: {name} cannot be read: {error.strerror}") from None


def names_code(folder: Path) -> bool:
    """Whether a file of the folder asks for code of the folder to be run."""
    files = (folder / name for name in _CODE_NAMING)
    return any("auto_map" in read_json(file) for file in files if file.is_file())


def _contents(folder: Path) -> Contents:
    config = read_json(folder / CONFIG)
    model_type = config.get("model_type")
    if model_type not in ADAPTERS:
        raise ModelError(_not_served(model_type, has_code="auto_map" in config))
    if quantization := config.get("quantization_config"):
        how = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"its weights are quantized ({how or 'by some method'}), which is not served: take the "
            "repository with weights of 16 or 32 bits"
        )
    _check_processor(folder)
    return Contents(folder, str(model_type), num_parameters(folder))


def _not_served(model_type: Any, *, has_code: bool) -> str:
    if not isinstance(model_type, str):
        return f"{CONFIG} names no model_type: is it a model for Transformers? Served are {SERVED}"
    if instead := _INSTEAD.get(model_type):
        instead = f"take {instead}"
    else:
        instead = f"take a model of a family that is served: {SERVED}"
    if has_code:
        return (
            f"model type {model_type!r} is loaded by Python code of the folder itself, and no code "
            f"of a folder is ever run: {instead}"
        )
    return f"model type {model_type!r} is not served: {instead}"


def _check_processor(folder: Path) -> None:
    settings = {
        name: read_json(folder / name) for name in _CODE_NAMING if (folder / name).is_file()
    }
    is_there = (folder / "preprocessor_config.json").is_file()
    if not is_there and "image_processor" not in settings.get("processor_config.json", {}):
        raise ModelError(
            "how it prepares pictures is not said, preprocessor_config.json is missing: download "
            "all .json files of the repository; a model of text alone is not served"
        )
    if not _first(folder, _TOKENIZERS):
        raise ModelError(
            f"it has no tokenizer, tokenizer.json is missing: download all {_WORDS} files of the "
            "repository"
        )
    if tokenizer := _first(folder, ("tokenizer.json",)):
        read_json(tokenizer)
    if not _first(folder, _TEMPLATES) and not any(
        settings.get(f"{name}_config.json", {}).get("chat_template")
        for name in ("processor", "tokenizer")
    ):
        raise ModelError(
            "it has no chat template, chat_template.jinja is missing: download all .json and .jinja"
            " files of the repository; a base model that was never taught to chat has none"
        )


_WORDS: Final = ".json, .model and .txt"


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _without_config(folder: Path, names: list[str]) -> str:
    for name in names:
        if name.endswith(".gguf"):
            return f"it holds {name}, and {GGUF}"
    if "adapter_config.json" in names:
        return (
            "it is an adapter (LoRA), not a model: merge it into its base model and save the whole"
        )
    below = [name for name in names if (folder / name / CONFIG).is_file()]
    # As the hub's own cache lays its folders out.
    below += [
        str(found.parent.relative_to(folder)) for found in folder.glob(f"snapshots/*/{CONFIG}")
    ]
    if below:
        return f"the model is one deeper, name {str(folder / below[0])!r}"
    return f"{CONFIG} is missing: download all files of the repository into it"


def _close_to(folder: Path) -> str:
    """Names beside it that it may have been meant for."""
    try:
        beside = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    close = get_close_matches(folder.name, beside, n=3)
    return (
        f"; close to it: {', '.join(str(folder.parent / name) for name in close)}" if close else ""
    )
