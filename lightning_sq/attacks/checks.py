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
    assert distance <= epsilon + ROUNDING * max(1.0, epsilon), "an adversarial image is outside the ball"
    return classify(model, adversarial) != labels


def classify(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The class of the largest logit, (B,), in float32. Raises: InputError if a logit is not a number."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        logits = model(images.float())
    if not torch.isfinite(logits).all():
        raise InputError(
            "The model gives logits that are not finite numbers. An accuracy would mean nothing: mend the model first."
        )
    return logits.argmax(1)
