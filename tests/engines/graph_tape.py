"""A CUDA graph's rules, kept on a CPU.

A graph is a list of kernels on fixed addresses: a replay runs those and nothing of Python, and what
a kernel does not write again holds whatever the last graph of the same pool left there. So a step
is recorded as the operators that it dispatched, on the tensors that it dispatched them on, and
before each replay every tensor that any recorded step made is filled with poison.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from vlserve.engines.native.gpu.cuda_graphs import NUM_WARM_UPS, DecodeOutputs, Recorded
from vlserve.engines.native.gpu.kernels import (
    PagedKernels,
    plain_paged_attention,
    plain_write_pages,
)

# Plain kernels as Triton's are used: in a graph, over a page table of full width.
GRAPHED = PagedKernels("plain", plain_paged_attention, plain_write_pages, can_graph=True)
# What waits for the device or copies from the host: a stream that is recorded refuses it.
REFUSED_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
REFUSED = {"aten::lift_fresh", "aten::scalar_tensor"}


@dataclass(frozen=True, slots=True)
class Call:
    """One operator as it was dispatched; `made` are its outputs that lie where no input does."""

    function: Any
    args: tuple[Any, ...]
    options: dict[str, Any]
    outputs: list[torch.Tensor]
    made: list[torch.Tensor]

    @property
    def is_kernel(self) -> bool:
        """A view computes nothing: its numbers are there when those of its base are."""
        return bool(self.made) or self.function._schema.is_mutable

    def run(self) -> None:
        """Again, into the same tensors."""
        outputs = _tensors(self.function(*self.args, **self.options))
        for target, source in zip(self.outputs, outputs, strict=True):
            if target is not source and any(target is each for each in self.made):
                target.copy_(source)


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the operators that are called under it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        name = func._schema.name
        if _waits(func, name, args):
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        result = func(*args, **options)
        places = {_place(tensor) for tensor in _tensors((args, options))}
        outputs = _tensors(result)
        made = [tensor for tensor in outputs if _place(tensor) not in places]
        self.calls.append(Call(func, args, options, outputs, made))
        return result


class TapeRecorder:
    """A Recorder in the place of CudaRecorder. `replays` counts those of all its steps."""

    pins_memory = False

    def __init__(self) -> None:
        self.replays = 0
        self._made: list[torch.Tensor] = []

    def record(self, run: Recorded) -> Recorded:
        """As CudaRecorder does it; raises RuntimeError for what a graph cannot hold."""
        for _ in range(NUM_WARM_UPS):
            run()
        with Tape() as tape:
            outputs = run()
        calls = [call for call in tape.calls if call.is_kernel]
        self._made += [tensor for call in calls for tensor in call.made]

        def replay() -> DecodeOutputs:
            self.replays += 1
            for tensor in self._made:
                poison(tensor)
            for call in calls:
                call.run()
            return outputs

        return replay

    def mark_copied(self) -> None:
        """A copy on the CPU is over when it returns."""

    def wait_until_copied(self) -> None:
        """A copy on the CPU is over when it returns."""


def poison(tensor: torch.Tensor) -> None:
    """NaN, or a number that nobody means."""
    if tensor.is_floating_point():
        tensor.fill_(math.nan)
    elif tensor.dtype is torch.bool:
        tensor.fill_(True)
    else:
        tensor.fill_(77)


def _waits(function: Any, name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operator waits for the device, or copies from the host's memory."""
    if name == "aten::index":  # by a mask it counts; by numbers it does not
        return any(each.dtype is torch.bool for each in _tensors(args[1]))
    return name in REFUSED or bool(REFUSED_TAGS.intersection(function.tags))


def _tensors(values: Any) -> list[torch.Tensor]:
    flatten: Callable[[Any], Any] = tree_flatten
    return [value for value in flatten(values)[0] if isinstance(value, torch.Tensor)]


def _place(tensor: torch.Tensor) -> int:
    """Where a tensor's numbers lie."""
    place: int = tensor.untyped_storage()._cdata
    return place
