"""Soft and hard quantization of pixel intensities, and the backward passes that attacks and training choose from.

Source: arXiv 1810.05665 (abstract only; the formula below is ours).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_sq.errors import InputError

TAIL_BOUND = 1e-6
"""The thresholds left out of the sum change Q_a by at most this much (float32 itself resolves 6e-8 at 1)."""


def check_num_levels(num_levels: int) -> int:
    """`num_levels` itself, or an InputError that says what is wrong with it."""
    if isinstance(num_levels, bool) or int(num_levels) != num_levels or num_levels < 2:
        raise InputError(
            f"num_levels={num_levels} is not a count of at least 2. 2 keeps black and white, 256 is 8 bits."
        )
    return int(num_levels)


def check_sharpness(sharpness: float) -> float:
    """`sharpness` itself, or an InputError that says what is wrong with it."""
    if not (sharpness > 0 and math.isfinite(sharpness)):
        raise InputError(f"sharpness={sharpness} is not a finite number above 0. For the limit, set hard=True.")
    return float(sharpness)


def num_terms_within(tail_bound: float, *, num_levels: int, sharpness: float) -> int:
    r"""How many of the thresholds nearest to a pixel have to be summed for an error of at most `tail_bound`.

    With n terms centred on the pixel, the j-th threshold left out on either side is at least n / 2 + j - 1 steps away,
    and each side is a geometric series: error <= d e^{-a d n / 2} / (1 - e^{-a d}). The two sides have
    opposite signs (thresholds below count almost 1, those above almost 0), so one side bounds the whole.

    Returns: an odd number, or num_levels - 1 (all of them) where that is not fewer.
    """
    step = 1.0 / (num_levels - 1)
    decay = sharpness * step
    n = 2.0 / decay * math.log(step / (tail_bound * -math.expm1(-decay)))
    n = max(1, math.ceil(n))
    n += 1 - n % 2
    return min(n, num_levels - 1)


def soft_quantize(x: Tensor, *, num_levels: int, sharpness: float) -> Tensor:
    r"""Differentiable staircase that tends to rounding `x` to `num_levels` equally spaced values.

    $$ Q_a(x) = d \sum_{k=1}^{K-1} \sigma(a (x - t_k)),  d = 1/(K-1),  t_k = (k - 1/2) d $$

    Only the thresholds nearest to each pixel are summed; the others have saturated, and count 0 or 1 (`TAIL_BOUND`).
    Each sigmoid is computed as exp(logsigmoid(z)), whose derivative autograd takes as sigma(z) sigma(-z): the usual
    s (1 - s) is exactly 0 in float32 from z = 17 on, and would hide the gradient from an attacker.

    Args:
        x: Intensities in [0, 1], any shape; computed in float32 (float64 if given), returned in x.dtype.
        num_levels: K >= 2, a count, not bits.
        sharpness: a > 0, in 1 / (full pixel range).
    Returns: like `x`, non-decreasing in `x`, in [0, 1].
    Raises: InputError if num_levels < 2 or sharpness is not a finite number above 0.
    Example:
        >>> soft_quantize(torch.tensor([0.0, 0.5, 1.0]), num_levels=2, sharpness=30.0)
        tensor([3.0590e-07, 5.0000e-01, 1.0000e+00])
    """
    num_levels, sharpness = check_num_levels(num_levels), check_sharpness(sharpness)
    step = 1.0 / (num_levels - 1)
    n = num_terms_within(TAIL_BOUND, num_levels=num_levels, sharpness=sharpness)
    y = x if x.dtype == torch.float64 else x.float()
    if n == num_levels - 1:
        first = torch.ones_like(y.detach())
    else:  # number of the lowest threshold of each pixel's window
        nearest = torch.floor(y.detach() / step) + 1
        first = (nearest - (n - 1) // 2).clamp(1, num_levels - n)
    total = first - 1  # the thresholds below the window count one each
    for i in range(n):
        total = total + logsigmoid(sharpness * (y - (first + (i - 0.5)) * step)).exp()
    return (step * total).to(x.dtype)


def hard_quantize(x: Tensor, *, num_levels: int) -> Tensor:
    """round(x (K-1)) / (K-1), the limit of `soft_quantize`; its derivative is 0 wherever it has one.

    Args:
        x: Intensities in [0, 1], any shape.
        num_levels: K >= 2, a count, not bits.
    Raises: InputError if num_levels < 2.
    """
    num_levels = check_num_levels(num_levels)
    y = x if x.dtype == torch.float64 else x.float()
    return (torch.round(y * (num_levels - 1)) / (num_levels - 1)).to(x.dtype)


class _ReplaceBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, proxy: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def replace_backward(value: Tensor, proxy: Tensor) -> Tensor:
    """`value` in the forward pass, bit for bit; the derivative of `proxy` in the backward pass.

    This is BPDA (Athalye et al. 2018, arXiv 1802.00420) with any differentiable proxy, and the straight-through
    estimator with the identity.
    """
    return _ReplaceBackward.apply(value.detach(), proxy)
