"""Which number format a model is served in. Imports torch for nothing but what it is given."""

import logging
from pathlib import Path
from typing import Any, Final

from vlserve.models.weights import formats

_log = logging.getLogger(__name__)

AUTO: Final = "auto"
# As safetensors names them.
STORED: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float32"}


def auto_dtype(device: str, stored: str, *, has_bfloat16: bool = True) -> str:
    """What `engine.dtype` auto means on a device, `cpu` or `cuda`, for a checkpoint `stored` in a
    format: its own, but float32 on a CPU and float16 on a GPU without bfloat16."""
    if device == "cpu":
        return "float32"
    return "float16" if stored == "bfloat16" and not has_bfloat16 else stored


def chosen_dtype(asked: str, device: str, stored: str, *, has_bfloat16: bool = True) -> str:
    """The format that a checkpoint is served in where `engine.dtype` is `asked`.

    Warns where a bfloat16 checkpoint becomes float16.
    """
    chosen = auto_dtype(device, stored, has_bfloat16=has_bfloat16) if asked == AUTO else asked
    if stored == "bfloat16" and chosen == "float16":
        cause = "this GPU has no bfloat16" if asked == AUTO else "engine.dtype is float16"
        _log.warning(
            "the checkpoint is in bfloat16 and is served in float16, since %s: numbers above"
            " 65,504 become infinite there, and the check at load refuses the model then;"
            " engine.dtype float32 holds them",
            cause,
        )
    return chosen


def stored_dtype(folder: Path, config: Any) -> str:
    """The format of a checkpoint: what its configuration says, else that of its tensors, else
    float32. Raises ModelError where the headers of its weights cannot be read."""
    for each in (config, config.get_text_config()):
        if each.dtype is not None:
            return str(each.dtype).removeprefix("torch.")
    found = (STORED[each] for each in formats(folder) if each in STORED)
    return next(found, "float32")
