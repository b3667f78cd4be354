"""Linear layers whose rows do not depend on how many rows there are (CPU, float32).

A plain matrix product picks its kernel by the number of rows, and the last bits follow. The
weights reordered once by oneDNN give the same bits for a row alone and in company, and spare the
packing that every plain call repeats. Both operators are private to torch, so each layer is
probed when it is packed.
"""

import logging
from typing import Any

import torch
from torch import nn
from torch.nn import functional

PROBED_ROWS = (1, 2, 7, 16, 48)
TOLERANCE = 1e-4
_log = logging.getLogger(__name__)


class PackedLinear(nn.Module):
    """A linear layer over a prepacked weight. `min_rows` 2: a row alone is computed twice,
    because this layer has another kernel for one row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        self.packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(
            linear.weight.detach(), None
        )
        self._call: Any = torch.ops.mkldnn._linear_pointwise.default
        self.min_rows = 1

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        if self.min_rows == 2 and rows.numel() == self.in_features:
            doubled = rows.reshape(1, -1).expand(2, -1)
            out: torch.Tensor = self._call(doubled, self.packed, self.bias, "none", [], "")
            return out[:1].reshape(*rows.shape[:-1], self.out_features)
        result: torch.Tensor = self._call(rows, self.packed, self.bias, "none", [], "")
        return result


def pack_linears(module: nn.Module) -> bool:
    """Replace the linear layers below `module` where each keeps its promise; whether they all do.

    Where torch lacks the operators, or they differ from the plain layer, the plain ones stay.
    """
    linears = {name: child for name, child in module.named_modules() if type(child) is nn.Linear}
    try:
        packed = {name: _checked(linear) for name, linear in linears.items()}
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        _log.warning("linear layers are not prepacked, answers may differ in last bits: %s", error)
        return False
    for name, layer in packed.items():
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, layer)
    return True


def _checked(linear: nn.Linear) -> PackedLinear:
    layer = PackedLinear(linear)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(max(PROBED_ROWS), linear.in_features, generator=generator)
    reference = layer(probe)
    plain = functional.linear(probe, linear.weight, linear.bias)
    if (reference - plain).abs().max() > TOLERANCE * (1 + plain.abs().max()):
        raise RuntimeError("the prepacked layer computes something else")
    if not torch.equal(layer(probe[:1]), reference[:1]):
        layer.min_rows = 2
    for num_rows in PROBED_ROWS:
        if not torch.equal(layer(probe[:num_rows]), reference[:num_rows]):
            raise RuntimeError(f"the prepacked layer depends on its rows ({num_rows})")
    return layer
