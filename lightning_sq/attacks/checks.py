"""An adversarial image counts only after this."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_sq.attacks.pgd import BALLS
from lightning_sq.errors import InputError
from lightning_sq.ops.precision import full_precision
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
    attack: str = "The attack",
) -> Tensor:
    """(B,) bool: misclassified in a fresh forward pass of the true model in float32.

    Args:
        model: Pixels to logits.
        adversarial: (B, C, H, W).
        images: What the attack was given, alike.
        labels: (B,) int64.
        epsilon: Radius of the ball.
        norm: Of the ball.
        attack: How a message calls it.
    Raises: InputError if an image is outside the ball or the box, or not a number: the attack is to be mended; or if a
        logit is not a number: the model is.
    """
    if not torch.isfinite(adversarial).all():
        raise InputError(f"{attack} gave pixels that are not numbers. Look for a division by 0 in it.")
    low, high = (value.item() for value in adversarial.aminmax())
    if low < PIXEL_BOUNDS[0] or high > PIXEL_BOUNDS[1]:
        raise InputError(f"{attack} gave pixels from {low:.9g} to {high:.9g}, outside [0, 1]. Clip them: .clamp(0, 1).")
    distance = BALLS[norm].distance(adversarial, images).max().item()
    if distance > epsilon + _rounding(images, epsilon, norm):
        raise InputError(
            f"{attack} gave an image {distance:.9g} away from the one that it was given, outside the ball of "
            f"{epsilon:.9g} ({norm}). End it with lightning_sq.ops.{norm}_ball.project(adversarial, images, epsilon)."
        )
    return classify(model, adversarial) != labels


def _rounding(images: Tensor, epsilon: float, norm: Norm) -> float:
    of_pixels = 0.0 if norm == "linf" else PIXEL_ROUNDING * images[0].numel() ** 0.5
    return ROUNDING * max(1.0, epsilon) + of_pixels


def classify(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The class of the largest logit, (B,), in float32. Raises: InputError if a logit is not a finite number."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False), full_precision():
        logits = model(images.float())
    if torch.isfinite(logits).all():
        return logits.argmax(1)
    if (logits.isfinite() | logits.isneginf()).all():
        raise InputError(
            "The model gives logits of -inf, as of classes that are masked, and losses of these are not finite. Give a "
            "large negative number instead, such as -1e4."
        )
    raise InputError(
        "The model gives logits that are not finite numbers. An accuracy would mean nothing: mend the model first."
    )
