"""Interval bound propagation: what each operation does to a box of inputs (Gowal et al. 2018, arXiv 1810.12715).

Bounds hold in exact arithmetic. Rounding is not accounted for: in float32 the bounds of a ResNet-18 differ from those
in float64 by less than 1e-6 of their own size, and what is nearer to 0 than ten times that is not taken for a proof
(`interval_network.margin_bound`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_sq.types import PIXEL_BOUNDS

MOST_NUMBERS = 2**26
"""Of differences of weights in memory: 256 MiB, as much as 128 images take at 1000 classes and 512 features."""


class Interval(NamedTuple):
    """A box: every tensor x with lower <= x <= upper, value by value.

    Args:
        lower: Any shape.
        upper: The same shape, nowhere below `lower`.
    """

    lower: Tensor
    upper: Tensor

    @property
    def centre(self) -> Tensor:
        """(lower + upper) / 2."""
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        """(upper - lower) / 2, at least 0."""
        return (self.upper - self.lower) / 2


def quantized_box(
    images: Tensor, epsilon: float | Tensor, quantizer: Callable[[Tensor], Tensor] | None = None
) -> Interval:
    """[Q(clip(x - eps)), Q(clip(x + eps))]: where the quantizer takes the L-inf ball around each image.

    The smallest such box, because Q is elementwise and non-decreasing (a soft one within `TAIL_BOUND`). The ends are
    computed as `linf_ball.project` computes them, so that an attack cannot round its way out.

    Args:
        images: (B, C, H, W) in [0, 1].
        epsilon: Radius in units of the full pixel range.
        quantizer: Q; None is the identity, and gives the box of pixels.
    """
    box = Interval((images - epsilon).clamp(*PIXEL_BOUNDS), (images + epsilon).clamp(*PIXEL_BOUNDS))
    return box if quantizer is None else non_decreasing(quantizer, box)


def end(value: Any, index: int) -> Any:
    """`value` with its lower (0) or upper (1) end in the place of every Interval, also in lists and tuples."""
    if isinstance(value, Interval):
        return value[index]
    if isinstance(value, (list, tuple)):  # the two mean different things where they index a tensor
        return (list if isinstance(value, list) else tuple)(end(part, index) for part in value)
    return value


def non_decreasing(function: Callable[..., Tensor], *args: Any, **options: Any) -> Interval:
    """[f(lower), f(upper)], the exact image for f non-decreasing in every Interval among its arguments.

    Such are ReLU, tanh, sigmoid, hardtanh, the quantizer, pooling, sums, means, and whatever only moves values about.
    """
    lower, upper = (function(*end(args, i), **{key: end(v, i) for key, v in options.items()}) for i in (0, 1))
    return Interval(lower, upper)


def affine(
    function: Callable[..., Tensor],
    box: Interval,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **options: Any,
) -> Interval:
    """f(c, W, b) -+ f(r, |W|), c and r the box's centre and radius: each bound is reached at a corner of the box.

    Args:
        function: (x, weight, bias, *args, **options) -> W x + b, linear in x and in the weight. It is called twice.
    """
    centre = function(box.centre, weight, bias, *args, **options)
    radius = function(box.radius, weight.abs(), None, *args, **options)
    return Interval(centre - radius, centre + radius)


def linear(box: Interval, weight: Tensor, bias: Tensor | None = None) -> Interval:
    """The exact bounds of W x + b: (B, n) -> (B, m) for `weight` (m, n)."""
    return affine(functional.linear, box, weight, bias)


def conv2d(box: Interval, weight: Tensor, bias: Tensor | None = None, *args: Any, **options: Any) -> Interval:
    """The exact bounds of a convolution; the arguments of `torch.nn.functional.conv2d`."""
    return affine(functional.conv2d, box, weight, bias, *args, **options)


def batch_norm(
    box: Interval,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Interval:
    """The exact bounds of (x - mean) / sqrt(variance + eps) * weight + bias, the statistics (C,) given.

    Differentiable in the statistics too. Where they are a batch's own they hold for that batch alone.
    """
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    scale, shift = (part.view(-1, *[1] * (box.lower.dim() - 2)) for part in (scale, shift))
    centre, radius = box.centre * scale + shift, box.radius * scale.abs()
    return Interval(centre - radius, centre + radius)


def worst_case_logits(logits: Interval, labels: Tensor) -> Tensor:
    """The lower bound for the true class, the upper bounds for the others: (B, classes), (B,) -> (B, classes).

    Their cross-entropy is at least that of any point of the box.
    """
    return logits.upper.scatter(1, labels[:, None], logits.lower.gather(1, labels[:, None]))


def margin_upper_bounds(features: Interval, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Exact upper bounds of z_j - z_y for z = W h + b with h in the box; 0 at j = y.

    One linear map, (W_j - W_y) h + b_j - b_y, instead of the difference of two bounds that no single h reaches (section
    2 of the source, elision of the last layer): never above the margins of `worst_case_logits`.

    Args:
        features: (B, n), the input of the last layer.
        weight: (classes, n).
        bias: (classes,) or None.
        labels: (B,) int64.
    Returns: (B, classes). Classes are taken so many at a time that `MOST_NUMBERS` are in memory twice or three times;
        where a gradient is asked for, those of all classes stay there, B * classes * n.
    """
    own, at_a_time = weight[labels][:, None], max(1, MOST_NUMBERS // max(1, features.lower.numel()))
    bounds = torch.cat([_bounds_of(classes - own, features) for classes in weight.split(at_a_time)], 1)
    return bounds if bias is None else bounds + (bias - bias[labels][:, None])


def _bounds_of(difference: Tensor, features: Interval) -> Tensor:
    """Of `difference` (B, k, n) times h: (B, k)."""
    bounds = torch.einsum("bkn,bn->bk", difference, features.centre)
    return bounds + torch.einsum("bkn,bn->bk", difference.abs(), features.radius)
