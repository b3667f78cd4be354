"""Arrays to the model's device and tokens back, without waits that are not needed."""

from typing import Any

import numpy.typing as npt
import torch


def to_device(values: npt.NDArray[Any] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """`values` on `device`; to a GPU by way of pinned memory, so that the host does not wait.

    The copy is ordered on the current stream. On the CPU nothing is copied.
    """
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tokens: torch.Tensor) -> list[int]:
    """The numbers of `i64[N]`: one copy, and one wait for what was given to the device so far."""
    if not tokens.is_cuda:
        numbers: list[int] = tokens.tolist()
        return numbers
    host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    host.copy_(tokens, non_blocking=True)
    copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()
    copied.synchronize()
    copied_numbers: list[int] = host.tolist()
    return copied_numbers
