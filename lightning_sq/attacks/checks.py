"""An adversarial image counts only after this."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_sq.attacks.pgd import BALLS
from lightning_sq.errors import InputError
from lightning_sq.types import PIXEL_BOUNDS, Norm

ROUNDING = 1e-6
"""What float32 may add to a distance, relative to 1 or to the budget if that is larger."""
PIXEL_ROUNDING = 2**-24
"""What float32 may add to each pixel: in L2 a distance of as much times the square root of their number."""


def fools(
    model: Callable[[Tensor], Tensor],
    adversarial: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
) -> Tensor:
    """(B,) bool: misclassified in a fresh forward pass of the true model in float32.

    Raises: AssertionError if an image is outside the ball or the box, or not a number: the attack is broken.
        InputError if a logit is not a number: the model is.
    """
    low, high = PIXEL_BOUNDS
    assert torch.isfinite(adversarial).all(), "an adversarial image is not a number"
    assert ((adversarial >= low) & (adversarial <= high)).all(), "an adversarial image is outside [0, 1]"
    distance = BALLS[norm].distance(adversarial, images).max()
    assert distance <= epsilon + _rounding(images, epsilon, norm), "an adversarial image is outside the ball"
    return classify(model, adversarial) != labels


def _rounding(images: Tensor, epsilon: float, norm: Norm) -> float:
    of_pixels = 0.0 if norm == "linf" else PIXEL_ROUNDING * images[0].numel() ** 0.5
    return ROUNDING * max(1.0, epsilon) + of_pixels


def classify(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The class of the largest logit, (B,), in float32. Raises: InputError if a logit is not a number."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        logits = model(images.float())
    if not torch.isfinite(logits).all():
        raise InputError(
            "The model gives logits that are not finite numbers. An accuracy would mean nothing: mend the model first."
        )
    return logits.argmax(1)
