"""The L-inf ball around an image, cut to the box of valid pixels: the set an attacker may choose from."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from lightning_sq.types import PIXEL_BOUNDS


def project(adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The point nearest to `adversarial` within `epsilon` of `images`, in [0, 1]. Shapes alike."""
    low, high = PIXEL_BOUNDS
    return torch.min(torch.max(adversarial, images - epsilon), images + epsilon).clamp(low, high)


def random_start(images: Tensor, epsilon: float, generator: Generator) -> Tensor:
    """A point drawn uniformly from the ball, cut to the box."""
    noise = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return project(images + (noise * 2 - 1) * epsilon, images, epsilon)
