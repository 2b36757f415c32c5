"""The quantized-box attack: behind an elementwise monotone quantizer the ball is a box, and there nothing is hidden.

Q is elementwise and does not decrease, so it maps the eps-ball around x exactly onto the box from Q(clip(x - eps)) to
Q(clip(x + eps)). The attack looks for the worst point of that box for the network behind the quantizer, whose gradient
no staircase can mask, and maps it back to pixels by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_sq.attacks.pgd import PGD
from lightning_sq.ops.interval import quantized_box
from lightning_sq.types import PIXEL_BOUNDS

BISECTIONS = 30
"""Halvings of an interval of at most 1: float32 resolves no more."""


@dataclass(frozen=True)
class QuantizedBox:
    """PGD over t in [0, 1]^n with the network's input Q_low + t (Q_high - Q_low).

    Args:
        epsilon: Radius of the ball in pixels.
        num_steps: Gradient steps of 2.5 / num_steps of the box.
        criterion: "cross_entropy" or "margin".
    """

    epsilon: float
    num_steps: int = 40
    criterion: Literal["cross_entropy", "margin"] = "margin"

    def __call__(self, model: Any, images: Tensor, labels: Tensor, seeds: Sequence[int]) -> Tensor:
        """Adversarial images within epsilon, like `images`: (B, C, H, W) in [0, 1].

        Args:
            model: Shows its `quantizer` and the `network` behind it, as `PixelClassifier` does.
            images: (B, C, H, W) in [0, 1].
            labels: (B,) int64.
            seeds: One for each image.
        """
        quantizer, network = model.quantizer, model.network
        with torch.no_grad():
            lower, upper = quantized_box(images, self.epsilon, quantizer)
            width = upper - lower
            start = torch.where(width > 0, (quantizer(images) - lower) / width.clamp(min=1e-12), 0.0).clamp(0, 1)
        # a hard quantizer's output takes only its levels: round, straight through
        reachable = quantizer.with_backward("identity") if quantizer.hard else torch.nn.Identity()

        def behind(t: Tensor) -> Tensor:
            return network(reachable(lower + t * width))

        worst = PGD(1.0, self.num_steps, criterion=self.criterion)(behind, start, labels, seeds)
        with torch.no_grad():
            return preimage(quantizer, reachable(lower + worst * width), images, self.epsilon)


def preimage(quantizer: Callable[[Tensor], Tensor], values: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The pixels nearest to `images` that the quantizer takes to `values`, or just past them, within epsilon.

    Args:
        quantizer: Elementwise, non-decreasing.
        values: In [Q(clip(x - eps)), Q(clip(x + eps))], like `images`.
        images: (B, C, H, W) in [0, 1].
        epsilon: Radius of the ball.
    """
    rises = values >= quantizer(images)
    ends = (images + torch.where(rises, epsilon, -epsilon)).clamp(*PIXEL_BOUNDS)
    near, far = images, ends  # the quantizer reaches the value at `far`, perhaps before
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        found = quantizer(middle)
        reached = torch.where(rises, found >= values, found <= values)
        near, far = torch.where(reached, near, middle), torch.where(reached, middle, far)
    return torch.where(values == quantizer(images), images, far)
