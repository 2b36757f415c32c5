"""Cuts to [0, 1] without hiding from a gradient what lies exactly on an end."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_sq.ops.replace_backward import replace_backward

BEYOND = 1e-3
"""How far past an end the derivative is still 1."""


class UnitClamp(nn.Module):
    """clip(x, 0, 1), with the derivative 1 on both ends too.

    Where x says in whole numbers which thresholds a pixel has passed, every value is on an end or beyond it. There
    nn.Hardtanh has the derivative 0, and an attack behind the quantizer would see none at all.

    Shape: any in, the same out.
    """

    def forward(self, x: Tensor) -> Tensor:
        return replace_backward(x.clamp(0.0, 1.0), x.clamp(-BEYOND, 1.0 + BEYOND))
