"""Muon: momentum whose matrices are made orthogonal before each step.

Method: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the
scale that lets it share AdamW's learning rate: J. Liu et al., "Muon is scalable for LLM training"
(2025). `torch.optim.Muon` always iterates in bfloat16, which is far slower on a CPU without
instructions for it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from .precision import is_half_fast

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with all singular values about 1, by a quintic Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    if is_half_fast():
        x = x.bfloat16()
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = x.T if tall else x
    return result.to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices of hidden layers alone; everything else wants AdamW."""

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient; a closure is not supported."""
        if closure is not None:
            raise ValueError("closure is not supported")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                buffer = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalised(parameter.grad.lerp(buffer, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * max(parameter.shape) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * scale)
