"""Which adapter serves which model, and how a folder is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils.logging import disable_progress_bar

from vlserve.models.base import ModelAdapter
from vlserve.models.dtypes import chosen_dtype, stored_dtype
from vlserve.models.errors import ModelError
from vlserve.models.processors import load_processor
from vlserve.models.rope import fix_dynamic_rope

EMBEDDED = "embedded"
GENERIC = ("vlserve.models.base", "ModelAdapter")
ADAPTERS = {
    "gemma3": ("vlserve.models.gemma", "Gemma3"),
    "idefics2": ("vlserve.models.idefics", "Idefics2"),
    "idefics3": GENERIC,
    "internvl": GENERIC,
    "llava": GENERIC,
    "llava_next": GENERIC,
    "qwen2_5_vl": ("vlserve.models.qwen", "QwenVL"),
    "qwen3_vl": ("vlserve.models.qwen", "QwenVL"),
    "smolvlm": GENERIC,
}


def model_folder(path: str) -> Path:
    """The folder that `path` names; 'embedded' is the one inside the package.

    Raises ModelError when there is no model there.
    """
    folder = Path(__file__).parent / EMBEDDED if path == EMBEDDED else Path(path)
    if not (folder / "config.json").is_file():
        raise ModelError(f"no model at {path!r}: a folder with a config.json is needed")
    return folder


def load(path: str, *, device: torch.device, dtype: torch.dtype) -> ModelAdapter:
    """The model in a local folder, ready to answer: safetensors only, and no code from the folder.

    Raises ModelError when the folder holds no model or one of a type that is not supported.
    """
    folder = model_folder(path)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with _unloadable(path):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type not in ADAPTERS:
        supported = ", ".join(sorted(ADAPTERS))
        raise ModelError(
            f"model type {config.model_type!r} is not supported; supported: {supported}"
        )
    module, name = ADAPTERS[config.model_type]
    adapter: type[ModelAdapter] = getattr(import_module(module), name)
    with _unloadable(path):
        processor = load_processor(folder, config)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, config=config, dtype=dtype
        )
        fix_dynamic_rope(model.get_decoder())
        return adapter(model.to(device).eval(), processor)


def model_dtype(path: str, asked: str, device: torch.device) -> torch.dtype:
    """The number format of the model in a local folder where `engine.dtype` is `asked`.

    Raises ModelError when the folder holds no model.
    """
    folder = model_folder(path)
    with _unloadable(path):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        stored = stored_dtype(folder, config)
    # What is only emulated is slow.
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    name = chosen_dtype(asked, device.type, stored, has_bfloat16=has_bfloat16)
    dtype: torch.dtype = getattr(torch, name)
    return dtype


@contextmanager
def _unloadable(path: str) -> Iterator[None]:
    """What Transformers, torch and safetensors raise about the files of a folder, as ModelError."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"the model at {path!r} does not load: {error}") from error
