"""Noise on pixels, drawn from a generator that the caller owns."""

from __future__ import annotations

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
