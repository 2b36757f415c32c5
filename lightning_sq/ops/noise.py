"""Noise on pixels, drawn from a generator that the caller owns."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor


def uniform_noise(like: Tensor, *, epsilon: float, generator: Generator) -> Tensor:
    """Uniform in [-epsilon, epsilon], independently for every value of `like`."""
    return (torch.rand(like.shape, generator=generator, device=like.device) * 2 - 1) * epsilon


def rademacher_noise(like: Tensor, *, epsilon: float, generator: Generator) -> Tensor:
    """-epsilon or +epsilon with equal odds, independently: the corners of the L-inf ball."""
    signs = torch.randint(0, 2, like.shape, generator=generator, device=like.device)
    return (signs * 2 - 1) * epsilon


def gaussian_noise(like: Tensor, *, epsilon: float, generator: Generator) -> Tensor:
    """Normal with standard deviation `epsilon`, independently; not bounded by the L-inf ball."""
    return torch.randn(like.shape, generator=generator, device=like.device) * epsilon


NOISES = {"uniform": uniform_noise, "rademacher": rademacher_noise, "gaussian": gaussian_noise}


def draw_for_each(images: Tensor, seeds: Iterable[int], draw: Callable[[Tensor, Generator], Tensor]) -> Tensor:
    """`draw(image, generator)` for each of (B, C, H, W), every image with a seed of its own.

    So what an image gets depends neither on the other images of its batch nor on the number of processes.
    """
    generator = torch.Generator(images.device)
    return torch.stack([draw(x, generator.manual_seed(seed)) for x, seed in zip(images, seeds, strict=True)])
