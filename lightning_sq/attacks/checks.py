"""An adversarial image counts only after this."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_sq.ops.linf_ball import distance
from lightning_sq.types import PIXEL_BOUNDS

ROUNDING = 1e-6
"""What float32 may add to a distance in [0, 1]."""


def fools(
    model: Callable[[Tensor], Tensor], adversarial: Tensor, images: Tensor, labels: Tensor, *, epsilon: float
) -> Tensor:
    """(B,) bool: misclassified in a fresh forward pass of the true model in float32.

    Raises: AssertionError if an image is outside the ball or the box, or not a number: the attack is broken.
    """
    low, high = PIXEL_BOUNDS
    assert torch.isfinite(adversarial).all(), "an adversarial image is not a number"
    assert ((adversarial >= low) & (adversarial <= high)).all(), "an adversarial image is outside [0, 1]"
    assert distance(adversarial, images).max() <= epsilon + ROUNDING, "an adversarial image is outside the ball"
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return model(adversarial.float()).argmax(1) != labels
