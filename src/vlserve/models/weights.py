"""What the headers of a folder's safetensors files say. Reads no tensor and imports no torch."""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vlserve.models.errors import ModelError

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_LENGTH: Final = struct.Struct("<Q")  # of the header, at the file's start
_MAX_HEADER: Final = 100_000_000  # the format's own bound
_POINTER: Final = b"version https://git-lfs"
_PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth")
_AGAIN: Final = "download it again"


def num_parameters(folder: Path) -> int:
    """The numbers in all tensors of the folder's weights.

    Raises ModelError where a file of them is missing, cut off, damaged or only a pointer, and
    where the weights are not safetensors.
    """
    return sum(tensor.num_numbers for file in _files(folder) for tensor in _tensors(file))


def formats(folder: Path) -> Iterator[str]:
    """How each tensor of the folder's weights is stored, as safetensors names it: BF16, F32.

    Raises ModelError as `num_parameters` does.
    """
    return (tensor.format for file in _files(folder) for tensor in _tensors(file))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError for a pointer and for what is no such file."""
    data = file.read_bytes()
    _refuse_pointer(file, data)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ModelError(f"{file.name} is not JSON: {_AGAIN}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{file.name} is not a JSON object: {_AGAIN}")
    return found


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ModelError(_without_weights(folder))
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(_is_name(name) for name in names.values()):
        raise ModelError(f"{INDEX} names no files of weights: {_AGAIN}")
    files = [folder / name for name in sorted(set(names.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{len(missing)} of {len(files)} files of weights are missing, {missing[0]}{more}: "
            "download them as well"
        )
    return files


def _is_name(name: Any) -> bool:
    """Whether it is the name of a file in the folder itself."""
    return isinstance(name, str) and Path(name).name == name


def _without_weights(folder: Path) -> str:
    found = sorted(path.name for path in folder.iterdir())
    for name in found:
        if name.endswith(_PICKLES):
            return (
                f"its weights are in {name} only, a pickle, and reading one can run code: take a "
                f"repository with {WEIGHTS}, or save the model again in that format"
            )
    for name in found:
        if name.endswith(".gguf"):
            return f"its weights are in {name} only: {GGUF}"
    return f"it holds no weights: download {WEIGHTS}, or {INDEX} and the files that it names"


GGUF: Final = (
    "GGUF is not served; take the repository that it was converted from, with its safetensors files"
)


@dataclass(frozen=True, slots=True)
class _Tensor:
    format: str  # as safetensors names it
    num_numbers: int


def _tensors(file: Path) -> list[_Tensor]:
    """What a file's header says: eight bytes of its length, then JSON."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(len(_POINTER))
        _refuse_pointer(file, start)
        opened.seek(0)
        length = _LENGTH.unpack(start[: _LENGTH.size])[0] if len(start) >= _LENGTH.size else 0
        if not 0 < length <= _MAX_HEADER:
            raise ModelError(f"{file.name} is not a safetensors file: {_AGAIN}")
        header = opened.read(_LENGTH.size + length)[_LENGTH.size :]
    if len(header) < length:
        raise ModelError(f"{file.name} is cut off within its header: {_AGAIN}")
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        end = _LENGTH.size + length + max(int(entry["data_offsets"][1]) for entry in entries)
        found = [
            _Tensor(str(entry["dtype"]), math.prod(map(int, entry["shape"]))) for entry in entries
        ]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"{file.name} has a damaged header: {_AGAIN}") from None
    if size < end:
        raise ModelError(f"{file.name} is cut off, {size:,} of {end:,} bytes are here: {_AGAIN}")
    if size > end:
        raise ModelError(f"{file.name} is damaged, {size:,} bytes instead of {end:,}: {_AGAIN}")
    return found


def _refuse_pointer(file: Path, start: bytes) -> None:
    if start.startswith(_POINTER):
        raise ModelError(
            f"{file.name} is a Git LFS pointer, not the file itself: run `git lfs pull` in the "
            "folder, or download the file"
        )
