"""Soft and hard quantization of pixel intensities, and the backward passes that attacks and training choose from.

Source: arXiv 1810.05665 (abstract only; the formula below is ours). The parts are in `staircases`, `thresholds`,
`checks` and `replace_backward`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sq.ops.checks import check_floats, check_num_levels, check_sharpness, check_staircase
from lightning_sq.ops.staircases import STAIRCASES, Staircase
from lightning_sq.ops.thresholds import check_channels, count_up_to


def soft_quantize(
    x: Tensor,
    *,
    num_levels: int,
    sharpness: float | Tensor,
    staircase: Staircase = "sigmoid",
    thresholds: Tensor | None = None,
    smallest_gap: float = 0.0,
) -> Tensor:
    r"""Differentiable staircase that tends to rounding `x` to `num_levels` equally spaced values.

    $$ Q_a(x) = d \sum_{k=1}^{K-1} \sigma(a (x - t_k)),  d = 1/(K-1),  t_k = (k - 1/2) d $$

    Only the thresholds nearest to each pixel are summed; the others have saturated, and count 0 or 1 (`TAIL_BOUND`).
    `staircase="tanh"` is the piecewise form that meets the levels exactly; see `staircases` for both.

    Args:
        x: Intensities in [0, 1], any shape; computed in float32 (float64 if given), returned in x.dtype.
        num_levels: K >= 2, a count, not bits.
        sharpness: a > 0, in 1 / (full pixel range); a tensor without dimensions where it is learnt.
        staircase: "sigmoid" or "tanh".
        thresholds: t_k where they are not the uniform ones, increasing in (0, 1): (K-1,), or (C, K-1) for x of shape
            (..., C, H, W). Not looked at here (`check_thresholds`). The levels stay k / (K-1).
        smallest_gap: No two thresholds of a channel are nearer than this, which saves summing all of them.
    Returns: like `x`, non-decreasing in `x`, in [0, 1].
    Raises: InputError for x of integers, num_levels < 2, a sharpness that is not a finite number above 0, an unknown
        staircase, or thresholds for other channels than x has.
    Example:
        >>> soft_quantize(torch.tensor([0.0, 0.5, 1.0]), num_levels=2, sharpness=30.0)
        tensor([3.0590e-07, 5.0000e-01, 1.0000e+00])
    """
    num_levels, staircase, x = check_num_levels(num_levels), check_staircase(staircase), check_floats(x)
    if not isinstance(sharpness, Tensor):
        sharpness = check_sharpness(sharpness)
    y = x if x.dtype == torch.float64 else x.float()
    if thresholds is not None:
        check_channels(x, thresholds)
        thresholds = thresholds.to(y.dtype)
    q = STAIRCASES[staircase](
        y, num_levels=num_levels, sharpness=sharpness, thresholds=thresholds, smallest_gap=smallest_gap
    )
    return q.to(x.dtype)


def hard_quantize(x: Tensor, *, num_levels: int, thresholds: Tensor | None = None) -> Tensor:
    """round(x (K-1)) / (K-1), the limit of `soft_quantize`; its derivative is 0 wherever it has one.

    A pixel on a given threshold goes up; on a uniform one it goes to the even level, as torch.round has it.

    Args:
        x: Intensities in [0, 1], any shape.
        num_levels: K >= 2, a count, not bits.
        thresholds: See `soft_quantize`.
    Raises: InputError for x of integers, num_levels < 2, or thresholds for other channels than x has.
    """
    num_levels, x = check_num_levels(num_levels), check_floats(x)
    y = x if x.dtype == torch.float64 else x.float()
    if thresholds is None:
        level = torch.round(y * (num_levels - 1))
    else:
        check_channels(x, thresholds)
        level = count_up_to(y, thresholds.to(y.dtype)).to(y.dtype) + 0 * y  # a derivative of 0, as torch.round has
    return (level / (num_levels - 1)).to(x.dtype)
