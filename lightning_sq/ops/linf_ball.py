"""The L-inf ball around an image, cut to the box of valid pixels: the set an attacker may choose from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_sq.ops.noise import draw_for_each, uniform_noise
from lightning_sq.types import PIXEL_BOUNDS


def project(adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The point nearest to `adversarial` within `epsilon` of `images`, in [0, 1]. Shapes alike."""
    low, high = PIXEL_BOUNDS
    return torch.min(torch.max(adversarial, images - epsilon), images + epsilon).clamp(low, high)


def random_start(images: Tensor, epsilon: float, seeds: Sequence[int]) -> Tensor:
    """A point drawn uniformly from each image's ball, cut to the box; one seed an image."""
    noise = draw_for_each(images, seeds, lambda x, generator: uniform_noise(x, epsilon=epsilon, generator=generator))
    return project(images + noise, images, epsilon)


def distance(adversarial: Tensor, images: Tensor) -> Tensor:
    """The largest change of a pixel in each image: (B,) for (B, C, H, W)."""
    return (adversarial - images).abs().flatten(1).amax(1)


def steepest(gradient: Tensor) -> Tensor:
    """The direction of length 1 along which a linear function with this gradient grows fastest: sign g."""
    return gradient.sign()
