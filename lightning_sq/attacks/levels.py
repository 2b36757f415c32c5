"""The levels of a quantizer that is not ours, seen from outside: is it hard, and which values does it take?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lightning_sq.attacks.bpda import quantizer_with_backward
from lightning_sq.ops.noise import noise_like
from lightning_sq.ops.replace_backward import replace_backward
from lightning_sq.types import PIXEL_BOUNDS

GREYS = 1024
"""At least so many grey values are tried: a hard quantizer is taken to jump once, at most, between two of them."""
BISECTIONS = 20
"""Halvings of the distance between two greys: a change within a billionth counts as a jump."""
ROUNDING = 1e-6
"""Relative to the largest level; values so near are one level: x + (Q(x) - x).detach() is off by rounding."""


def to_reachable(quantizer: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """What moves any value to one that the quantizer can give, with a derivative of 1; None for a soft quantizer.

    Where the quantizer differs from pixel to pixel it is itself that function, if it leaves its own values unchanged.

    Args:
        quantizer: Elementwise and non-decreasing.
        images: (B, C, H, W); gives the shape of an image and the device.
    """
    levels = levels_of_each_channel(quantizer, images)
    if levels is not None:
        return partial(nearest_level, levels)
    return quantizer_with_backward(quantizer) if _is_idempotent(quantizer, images) else None


@torch.no_grad()
def _is_idempotent(quantizer: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    """On noise: of images there may be some that a soft one leaves as they are too."""
    values = quantizer(noise_like(images[:1]))
    low, high = PIXEL_BOUNDS
    return bool(values.min() >= low and values.max() <= high) and torch.equal(quantizer(values), values)


@torch.no_grad()
def levels_of_each_channel(quantizer: Callable[[Tensor], Tensor], images: Tensor) -> Tensor | None:
    """All the values that a hard quantizer takes, (C, n), non-decreasing, some of them several times.

    None for a soft one, which takes others between them, and for one that is not the same at every pixel of a channel.

    Args: as for `to_reachable`.
    """
    channels, height, width = images.shape[1:]
    count = -(-GREYS // (height * width)) * height * width

    def at(greys: Tensor) -> Tensor:
        """Of (C, count) greys, which are laid out as the pixels of images."""
        pixels = greys.view(channels, -1, height, width).transpose(0, 1)
        return quantizer(pixels.contiguous()).transpose(0, 1).reshape(channels, count)

    greys = torch.linspace(0, 1, count, device=images.device, dtype=torch.float32).expand(channels, count)
    levels = at(greys)
    generator = torch.Generator("cpu").manual_seed(0)
    elsewhere = torch.randperm(count, generator=generator, device="cpu").to(images.device)
    if not _near(at(greys[:, elsewhere]), levels[:, elsewhere], levels).all():
        return None
    return _distinct(levels.sort(1).values) if _jumps(at, greys, levels) else None


def _distinct(levels: Tensor) -> Tensor:
    """Without the columns in which no channel has a new level."""
    new = ~_near(levels[:, 1:], levels[:, :-1], levels).all(0)
    return levels[:, torch.cat([new.new_ones(1), new])]


def _near(one: Tensor, other: Tensor, levels: Tensor) -> Tensor:
    return (one - other).abs() <= ROUNDING * levels.abs().max()


def _jumps(at: Callable[[Tensor], Tensor], greys: Tensor, levels: Tensor) -> bool:
    """Whether the level at each grey turns into that at the next at once, with nothing between the two."""
    low, high = greys, torch.cat([greys[:, 1:], greys[:, -1:]], 1)
    at_low, at_high = levels, torch.cat([levels[:, 1:], levels[:, -1:]], 1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        at_middle = at(middle)
        below = _near(at_middle, at_low, levels)
        if not (below | _near(at_middle, at_high, levels)).all():
            return False
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return True


def nearest_level(levels: Tensor, values: Tensor) -> Tensor:
    """The level of its channel that is nearest to each value (B, C, H, W), of `levels` (C, n); its derivative is 1."""
    levels = levels.to(values)
    of_channel = values.detach().transpose(0, 1)
    index = torch.searchsorted((levels[:, 1:] + levels[:, :-1]) / 2, of_channel.flatten(1).contiguous())
    nearest = levels.gather(1, index).view_as(of_channel).transpose(0, 1)
    return replace_backward(nearest, values)
