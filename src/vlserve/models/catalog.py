"""How the model in a folder is loaded: its tensors and its texts, and never its code."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from vlserve.models.base import ModelAdapter
from vlserve.models.dtypes import chosen_dtype, stored_dtype
from vlserve.models.errors import ModelError
from vlserve.models.families import ADAPTERS
from vlserve.models.folder import contents, model_folder, names_code
from vlserve.models.processors import load_processor
from vlserve.models.rope import fix_dynamic_rope

_SHOWN: Final = 3
_log = logging.getLogger(__name__)


def load(path: str, *, device: torch.device, dtype: torch.dtype) -> ModelAdapter:
    """The model in a local folder, ready to answer: safetensors only, and no code from the folder.

    Raises ModelError when the folder holds no model, one of a type that is not supported, or one
    whose files do not belong together.
    """
    found = contents(path)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    # What it advises is for who writes programs with it; what is wrong is raised.
    set_verbosity_error()  # type: ignore[no-untyped-call]
    module, name = ADAPTERS[found.model_type]
    adapter: type[ModelAdapter] = getattr(import_module(module), name)
    with _unloadable(path, has_code=names_code(found.folder)):
        config = AutoConfig.from_pretrained(
            found.folder, local_files_only=True, trust_remote_code=False
        )
        processor = load_processor(found.folder, config)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            found.folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            config=config,
            dtype=dtype,
            output_loading_info=True,
        )
        model, report = loaded
        _check_whole(path, report)
        fix_dynamic_rope(model.get_decoder())
        return adapter(model.to(device).eval(), processor)


def model_dtype(path: str, asked: str, device: torch.device) -> torch.dtype:
    """The number format of the model in a local folder where `engine.dtype` is `asked`.

    Raises ModelError when the folder holds no model.
    """
    folder = model_folder(path)
    with _unloadable(path, has_code=names_code(folder)):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        stored = stored_dtype(folder, config)
    # What is only emulated is slow.
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    name = chosen_dtype(asked, device.type, stored, has_bfloat16=has_bfloat16)
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _check_whole(path: str, report: dict[str, Any]) -> None:
    """Raises ModelError where tensors are missing, which Transformers makes up at random."""
    names = sorted(report["missing_keys"])
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ModelError(
            f"model.path {path!r}: the weights lack {', '.join(names[:_SHOWN])}{more}, which "
            "config.json asks for: weights and config.json are of different models"
        )


@contextmanager
def _unloadable(path: str, *, has_code: bool) -> Iterator[None]:
    """What Transformers, torch and safetensors raise about the files of a folder, as ModelError.

    Their own words are logged, but where they advise to run code of the folder.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model.path {path!r} is too large for the GPU's memory: take a smaller model, "
            "`vlserve models` says which fit here"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if has_code:
            raise ModelError(
                f"model.path {path!r} does not load without Python code of the folder, and no code "
                "of a folder is ever run: take a model that Transformers knows itself, `vlserve "
                "models` lists some"
            ) from None
        _log.error("%s: %s", type(error).__name__, error)
        raise ModelError(
            f"model.path {path!r} does not load, its files do not belong together or are damaged: "
            "download all of them again. The log says where it ended"
        ) from error
