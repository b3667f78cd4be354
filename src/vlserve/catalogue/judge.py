"""Whether a model can be served here, said before anything heavy is imported."""

import os
import re
from typing import Final

from vlserve.catalogue.machine import main_memory, may_have_gpu, shown_size
from vlserve.catalogue.presets import ITEM_BYTES, NATIVE, PRESETS, Preset
from vlserve.models.dtypes import AUTO, auto_dtype
from vlserve.models.errors import ModelError
from vlserve.models.families import EMBEDDED
from vlserve.models.folder import contents
from vlserve.settings import CPU_CACHE_MIB, HELD_BACK, MIB, EngineSettings, ModelSettings

_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")


def judge(model: ModelSettings, engine: EngineSettings) -> None:
    """Raises ModelError where the model of these settings cannot be served on this machine.

    What it says is from names, JSON files and tensor headers: takes milliseconds. What a GPU holds
    is found out as the model is loaded there.
    """
    if engine.kind != "native" or model.path == EMBEDDED:
        return
    if not os.path.lexists(os.path.expanduser(model.path)):  # noqa: PTH111  never raise
        _refuse_name(model.path)
    found = contents(model.path)
    if engine.device == "cpu" or (engine.device == "auto" and not may_have_gpu()):
        _refuse_too_large(model.path, found.num_parameters, engine)


def _refuse_name(path: str) -> None:
    """For the name of a model where a folder is wanted."""
    for preset in PRESETS:
        if path.lower() in (preset.name, preset.repository.lower()):
            raise ModelError(f"model.path {path!r} is a name, not a folder: {_to_get(preset)}")
    if _REPOSITORY.fullmatch(path) and not os.path.isdir(os.path.dirname(path)):  # noqa: PTH112, PTH120
        raise ModelError(
            f"model.path {path!r}: there is no such folder, and nothing is fetched. If it is a "
            "repository, download its files into a folder and name that folder"
        )


def _to_get(preset: Preset) -> str:
    if preset.name == EMBEDDED:
        return f"write {EMBEDDED!r}"
    if preset.engine != NATIVE:
        return preset.note
    return (
        f"nothing is fetched. Download {preset.repository} into a folder and name that folder; "
        f"`vlserve models {preset.name}` says which files, and whether they fit here"
    )


def _refuse_too_large(path: str, num_parameters: int, engine: EngineSettings) -> None:
    memory = main_memory()
    room = memory.num_bytes * (1 - HELD_BACK)
    cache = (engine.cache_mib or CPU_CACHE_MIB) * MIB
    dtype = auto_dtype("cpu", "float32") if engine.dtype == AUTO else engine.dtype
    weights = num_parameters * ITEM_BYTES[dtype]
    if weights + cache <= room:
        return
    halved = num_parameters * ITEM_BYTES["bfloat16"]
    if dtype == "float32" and halved + cache <= room:
        way_on = f"--engine.dtype bfloat16 takes {shown_size(halved)}"
    else:
        way_on = "take a smaller one, `vlserve models` says which fit here"
    raise ModelError(
        f"model.path {path!r} is too large for this machine: {shown_size(weights)} of weights in "
        f"{dtype} and {shown_size(cache)} of cache (engine.cache_mib), where nine tenths of "
        f"{shown_size(memory.num_bytes)} are to be had: {way_on}"
    )
