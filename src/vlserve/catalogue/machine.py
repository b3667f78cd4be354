"""What memory this machine has, and which model it holds on which device."""

import os
from dataclasses import dataclass
from pathlib import Path

from vlserve.catalogue.presets import NATIVE, Preset
from vlserve.models.dtypes import auto_dtype
from vlserve.settings import HELD_BACK, MIB

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Of NVIDIA's driver, on Linux and in its Windows subsystem.
_GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_KIB = 1024


@dataclass(frozen=True)
class Memory:
    """The memory of one device, `cpu` or `cuda`, in bytes. Not every GPU has bfloat16."""

    device: str
    num_bytes: int
    has_bfloat16: bool = True

    def auto_dtype(self, preset: Preset) -> str:
        """What `engine.dtype` auto is for a preset here."""
        return auto_dtype(self.device, preset.dtype, has_bfloat16=self.has_bfloat16)


@dataclass(frozen=True)
class Fit:
    """Where and in which number format a preset is served, and whether the memory is enough for
    its weights and one conversation."""

    fits: bool
    memory: Memory
    dtype: str
    needed_bytes: int


def main_memory(cgroup_limit: Path = CGROUP_LIMIT) -> Memory:
    """The RAM, as far as this process may use it."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = cgroup_limit.read_text().strip() if cgroup_limit.is_file() else "max"
    return Memory("cpu", ram if limit == "max" else min(ram, int(limit)))


def may_have_gpu() -> bool:
    """Whether a GPU's driver is here. Only torch knows whether it can use what is behind it."""
    return any(device.exists() for device in _GPU_DEVICES)


def shown_size(num_bytes: int) -> str:
    """A size for a reader, in GiB, MiB or KiB."""
    for unit, name in ((1024 * MIB, "GiB"), (MIB, "MiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.1f} {name}"
    return f"{num_bytes / _KIB:,.1f} KiB"


def memories(cgroup_limit: Path = CGROUP_LIMIT) -> list[Memory]:
    """The first GPU if there is one, then the RAM, as far as this process may use it."""
    import torch  # noqa: PLC0415  heavy

    found = [main_memory(cgroup_limit)]
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0).total_memory
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        found.insert(0, Memory("cuda", gpu, has_bfloat16))
    return found


def fit(preset: Preset, found: list[Memory]) -> Fit:
    """The first of the devices that holds it: in the format that is taken where none is set, the
    CPU else in 16 bits.

    Where none does, the need on the largest. A preset that the native engine does not serve is
    never found to fit.
    """
    tried = [
        _judged(preset, memory, dtype)
        for memory in found
        for dtype in (memory.auto_dtype(preset), *(("bfloat16",) if memory.device == "cpu" else ()))
    ]
    fitting = (one for one in tried if one.fits)
    # The last format of a device asks least of it.
    return next(fitting, max(reversed(tried), key=lambda one: one.memory.num_bytes))


def _judged(preset: Preset, memory: Memory, dtype: str) -> Fit:
    needed = preset.needed_bytes(dtype)
    enough = needed <= memory.num_bytes * (1 - HELD_BACK)
    return Fit(enough and preset.engine == NATIVE, memory, dtype, needed)
