"""The two soft staircases. Both tend to round(x (K-1)) / (K-1) as the sharpness a grows, with the slope d a / 4 on each
threshold where they are sharp; d = 1/(K-1) is the distance of two levels.

Every sigmoid is computed as exp(logsigmoid(z)), whose derivative autograd takes as sigma(z) sigma(-z): the usual
s (1 - s) is exactly 0 in float32 from z = 17 on, and would hide the gradient from an attacker.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from lightning_sq.ops.replace_backward import replace_backward
from lightning_sq.ops.thresholds import column, nearest, pick

Staircase = Literal["sigmoid", "tanh"]

TAIL_BOUND = 1e-6
"""What is left out of the sum of sigmoids changes Q_a by at most this much (float32 itself resolves 6e-8 at 1)."""

FEW_LEVELS = 24
"""So many are summed in full; with more, no pixel needs more terms than that."""

WINDOWS = (1, 3, 5, 9, 15, 23, 47, 95, 191)
"""Numbers of terms: odd, and few of them, because torch.compile makes a graph for each that a schedule passes."""

NARROWEST = 1e-6
"""Half a cell of the tanh staircase counts as no narrower than this, where learnt thresholds meet."""


def num_terms_within(tail_bound: float, *, num_levels: int, sharpness: float, smallest_gap: float | None = None) -> int:
    r"""How many of the thresholds nearest to a pixel have to be summed for an error of at most `tail_bound`.

    With n terms centred on the threshold nearest to the pixel, the j-th one left out on either side is at least
    (n / 2 + j - 1) gaps away, and each side is a geometric series: error <= d e^{-r n / 2} / (1 - e^{-r}), r = a g, g
    the smallest gap. The two sides have opposite signs (thresholds below count almost 1, those above almost 0), so one
    side bounds the whole. With L = log(d / tail_bound), r >= 2/n (L - log(1 - e^{-2 L / n})) is enough.

    Args:
        tail_bound: Above 0.
        num_levels: K.
        sharpness: a.
        smallest_gap: g, d if left out; 0 sums all.
    Returns: one of `WINDOWS`, or num_levels - 1 (all of them) where that is not fewer.
    """
    count = num_levels - 1
    decay = sharpness * (1 / count if smallest_gap is None else smallest_gap)
    log_ratio = max(1.0, -math.log(count * tail_bound))
    for n in WINDOWS:
        if n < count and decay >= 2 / n * (log_ratio - math.log(-math.expm1(-2 * log_ratio / n))):
            return n
    return count


def sigmoid_staircase(
    y: Tensor,
    *,
    num_levels: int,
    sharpness: float | Tensor,
    thresholds: Tensor | None = None,
    smallest_gap: float = 0.0,
) -> Tensor:
    r"""d sum_k sigma(a (y - t_k)), within `TAIL_BOUND`. See `soft_quantize` for the arguments.

    At equal distances the cost does not grow with the number of levels: at most `FEW_LEVELS` terms are summed, or none
    where the staircase is so soft that its steps overlap (`smooth_sum`). A sharpness that is a tensor is not looked
    at, so both are computed and one is taken. Given thresholds are summed in full where their smallest gap is
    unknown or too small for a window.
    """
    count, step = num_levels - 1, 1.0 / (num_levels - 1)
    if thresholds is not None:
        known = not isinstance(sharpness, Tensor)
        terms = num_terms_within(
            TAIL_BOUND, num_levels=num_levels, sharpness=sharpness if known else 0.0, smallest_gap=smallest_gap
        )
        return _sum_given(y, sharpness, thresholds, terms)
    if num_levels <= FEW_LEVELS:
        if isinstance(sharpness, Tensor):
            return _sum_uniform(y, sharpness, count, count)
    elif isinstance(sharpness, Tensor):
        terms = num_terms_within(TAIL_BOUND, num_levels=num_levels, sharpness=count)
        soft = smooth_sum(y, step=step, sharpness=sharpness.clamp(max=count))
        return torch.where(sharpness < count, soft, _sum_uniform(y, sharpness.clamp(min=count), count, terms))
    elif sharpness < count:
        return smooth_sum(y, step=step, sharpness=sharpness)
    return _sum_uniform(y, sharpness, count, num_terms_within(TAIL_BOUND, num_levels=num_levels, sharpness=sharpness))


def _sum_uniform(y: Tensor, sharpness: float | Tensor, count: int, terms: int) -> Tensor:
    u = y * count  # in steps: the k-th threshold from 0 is at k + 1/2
    first: Tensor | int = 0  # number of the lowest threshold of each pixel's window; those below count one each
    if terms < count:
        first = (torch.floor(u.detach()) - (terms - 1) // 2).clamp(0, count - terms)
    total: Tensor | int = first
    for i in range(terms):
        total = total + logsigmoid(sharpness / count * (u - first - (i + 0.5))).exp()
    return total * (1 / count)  # at most 1: float32 rounds count * (1 / count) to 1 or just below


def _sum_given(y: Tensor, sharpness: float | Tensor, thresholds: Tensor, terms: int) -> Tensor:
    count = thresholds.shape[-1]
    if terms == count:
        return sum(logsigmoid(sharpness * (y - column(thresholds, k))).exp() for k in range(count)) / count
    first = (nearest(y, thresholds) - (terms - 1) // 2).clamp(0, count - terms)
    total = first.to(y.dtype)
    for i in range(terms):
        total = total + logsigmoid(sharpness * (y - pick(thresholds, first + i))).exp()
    return total / count


def smooth_sum(y: Tensor, *, step: float, sharpness: float | Tensor) -> Tensor:
    r"""d sum_k sigma(a (y - t_k)) in closed form, where neighbouring steps overlap: r = a d <= 1, more than 24 levels.

    The sum is the midpoint rule for an integral, and Euler-Maclaurin's formula (DLMF 2.10.1) gives the difference from
    the derivatives at both ends,

    $$ Q_a = \left[ \tfrac1a \mathrm{softplus}(z) + d \left( -\tfrac{r}{24} \sigma' + \tfrac{7 r^3}{5760} \sigma'''
       - \tfrac{31 r^5}{967680} \sigma^{(5)} \right)(z) \right]_{z = a (y - 1)}^{a y} $$

    The remainder is at most 2 |B_8| / 8! d r^7 V, V = 4.95 the total variation of the seventh derivative of sigma:
    8.2e-6 d, 3.5e-7 from 25 levels on. Float32 rounds to 1e-7 (1 + 1/a).
    """
    r = sharpness * step
    low, high = sharpness * y, sharpness * (y - 1)
    integral = (softplus(low) - softplus(high)) / sharpness
    return integral + step * (_end(low, r) - _end(high, r))


def _end(z: Tensor, r: float | Tensor) -> Tensor:
    s = torch.sigmoid(z)
    p = s * (1 - s)
    third, fifth = 1 - 6 * p, 1 - 30 * p + 120 * p * p  # sigma''' and sigma^(5), each without its factor p
    return p * (-r / 24 + 7 * r**3 / 5760 * third - 31 * r**5 / 967680 * fifth)


def tanh_staircase(
    y: Tensor,
    *,
    num_levels: int,
    sharpness: float | Tensor,
    thresholds: Tensor | None = None,
    smallest_gap: float = 0.0,
) -> Tensor:
    r"""Differentiable soft quantization (Gong et al. 2019, arXiv 1908.05033): one tanh a cell, through the levels.

    $$ Q_a(y) = d (k - \tfrac12 + \tfrac12 s \tanh(a' (y - t_k))),  s = 1 / \tanh(a' h),  a' = a/2 $$

    for y in cell k, which holds t_k and ends half way to its neighbours (the first at 0, the last at 1); h is the
    width of the cell on y's side of t_k, d/2 for uniform thresholds. So Q_a is exactly level k-1 and level k at the
    ends of cell k and half way on t_k, and continuous. As tanh(z) = 2 sigma(2 z) - 1, a' = a/2 makes it agree with the
    sigmoid staircase of sharpness a as both sharpen. The derivative is a' s sech^2(z) d/2 with
    sech^2(z) = 4 sigma(2 z) sigma(-2 z), no difference of near numbers.

    One term whatever the number of levels. See `soft_quantize` for the arguments; the gap is not needed.
    """
    count = num_levels - 1
    if thresholds is None:
        u = y * count
        cell = torch.floor(u.detach()).clamp(0, count - 1)
        double_z = sharpness / count * (u - cell - 0.5)
        end = sharpness / (4 * count)
        scale = 1 / (torch.tanh(end) if isinstance(end, Tensor) else math.tanh(end))
    else:
        below, above = thresholds[..., :1], 1 - thresholds[..., -1:]
        between = thresholds.diff() / 2
        index = nearest(y, thresholds)
        away = y - pick(thresholds, index)
        down, up = torch.cat([below, between], -1), torch.cat([between, above], -1)
        width = torch.where(away < 0, pick(down, index), pick(up, index)).clamp_min(NARROWEST)
        cell, double_z, scale = index, sharpness * away, 1 / torch.tanh(sharpness / 2 * width)
    value = (torch.tanh(double_z / 2) * scale).clamp(-1, 1)
    return (cell + 0.5 + 0.5 * replace_backward(value, (2 * logsigmoid(double_z).exp() - 1) * scale)) / count


STAIRCASES = {"sigmoid": sigmoid_staircase, "tanh": tanh_staircase}
