"""The Euclidean ball around an image, cut to the box of valid pixels. The same four functions as `linf_ball`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_sq.ops.noise import draw_for_each
from lightning_sq.ops.smallest import SMALLEST
from lightning_sq.types import PIXEL_BOUNDS


def distance(adversarial: Tensor, images: Tensor) -> Tensor:
    """||x' - x||_2 of each image: (B,) float64 for (B, C, H, W), because a sum of 150,528 squares drifts in float32."""
    return (adversarial - images).flatten(1).norm(dim=1, dtype=torch.float64)


def project(adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """Towards the image until within `epsilon`, then into [0, 1], which takes no point farther away. Shapes alike."""
    change = adversarial - images
    shrink = (epsilon / distance(adversarial, images).clamp(min=SMALLEST)).clamp(max=1.0)
    return (images + change * _each(shrink.to(images), images)).clamp(*PIXEL_BOUNDS)


def random_start(images: Tensor, epsilon: float, seeds: Sequence[int]) -> Tensor:
    """A point drawn uniformly from each image's ball, cut to the box; one seed an image."""

    def draw(x: Tensor, generator: torch.Generator) -> Tensor:
        options = {"generator": generator, "device": x.device, "dtype": torch.float32}
        direction = torch.randn(x.shape, **options)
        radius = epsilon * torch.rand((), **options) ** (1 / x.numel())
        return direction * (radius / direction.norm().clamp(min=SMALLEST))

    return project(images + draw_for_each(images, seeds, draw), images, epsilon)


def steepest(gradient: Tensor) -> Tensor:
    """The direction of length 1 along which a linear function with this gradient grows fastest: g / ||g||_2."""
    return gradient / _each(gradient.flatten(1).norm(dim=1).clamp(min=SMALLEST), gradient)


def _each(values: Tensor, images: Tensor) -> Tensor:
    return values.view(-1, *[1] * (images.dim() - 1))
