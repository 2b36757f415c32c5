"""Noise on pixels, independent or correlated over the image, drawn from a generator that the caller owns.

A kind says how each pixel's noise is distributed, a pattern how the pixels of an image hang together: an attacker moves
whole strokes, so noise that is constant over blocks or varies smoothly comes nearer to what he does than independent
noise. Every correlated pattern is a Gaussian field of unit variance that is then mapped to the kind's distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, interpolate

NoiseKind = Literal["uniform", "rademacher", "gaussian"]
NoisePattern = Literal["pixel", "image", "blocks", "smooth", "mixture"]


def random_int16(like: Tensor, *, generator: Generator) -> Tensor:
    """All 65,536 values of int16 with equal odds, one for each value of `like`; four come from one 64-bit draw."""
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    return words.random_(-(2**63), None, generator=generator).view(torch.int16)[: like.numel()].view(like.shape)


def as_uniform(integers: Tensor, *, epsilon: float) -> Tensor:
    """int16 -> 65,536 equally spaced values in (-epsilon, epsilon), symmetric about 0; far finer than 8-bit pixels."""
    return integers.float().add_(0.5).mul_(epsilon / 2**15)


def uniform_noise(like: Tensor, *, epsilon: float, generator: Generator) -> Tensor:
    """Uniform in (-epsilon, epsilon), in steps of epsilon / 2^15, independently for every value of `like`."""
    return as_uniform(random_int16(like, generator=generator), epsilon=epsilon)


def rademacher_noise(like: Tensor, *, epsilon: float, generator: Generator) -> Tensor:
    """-epsilon or +epsilon with equal odds, independently: the corners of the L-inf ball."""
    return _of_sign(random_int16(like, generator=generator), epsilon)


def gaussian_noise(like: Tensor, *, epsilon: float, generator: Generator) -> Tensor:
    """Normal with standard deviation `epsilon`, independently; not bounded by the L-inf ball."""
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=torch.float32) * epsilon


INDEPENDENT = {"uniform": uniform_noise, "rademacher": rademacher_noise, "gaussian": gaussian_noise}


def from_gaussian(field: Tensor, *, kind: NoiseKind, epsilon: float) -> Tensor:
    """A standard normal field, pixel by pixel mapped to the distribution of `kind`; its correlations stay."""
    match kind:
        case "uniform":  # the normal distribution function is uniform in [0, 1]
            return torch.erf(field / 2**0.5) * epsilon
        case "rademacher":
            return _of_sign(field, epsilon)
    return field * epsilon


def _of_sign(values: Tensor, epsilon: float) -> Tensor:
    """-epsilon where a value is below 0, else epsilon; float32."""
    return torch.full_like(values, epsilon, dtype=torch.float32).masked_fill_(values < 0, -epsilon)


def gaussian_field(like: Tensor, *, cells: int, smooth: bool, generator: Generator) -> Tensor:
    """A standard normal number for each of `cells` x `cells` parts of the image, constant on each or bilinear between.

    Args:
        like: (B, C, H, W); the field is the same for all channels.
        cells: Along each side; 1 gives one number for the whole image.
        smooth: Interpolate, and scale so that every pixel has variance 1.
    Returns: (B, 1, H, W) float32.
    """
    height, width = like.shape[-2:]
    grid = torch.randn((len(like), 1, cells, cells), generator=generator, device=like.device, dtype=torch.float32)
    rows, columns = (_interpolation(cells, length, smooth=smooth, device=like.device) for length in (height, width))
    with torch.autocast(like.device.type, enabled=False):
        return rows @ grid @ columns.T


def _interpolation(cells: int, length: int, *, smooth: bool, device: torch.device) -> Tensor:
    """(length, cells): each row weighs the cells that a pixel lies in or between, with squares that sum to 1."""
    identity = torch.eye(cells, device=device, dtype=torch.float32)[None]
    mode = {"mode": "linear", "align_corners": True} if smooth and cells > 1 else {"mode": "nearest"}
    weights = interpolate(identity, size=length, **mode)[0].T
    return weights / weights.norm(dim=1, keepdim=True)


def correlated_noise(
    like: Tensor,
    *,
    kind: NoiseKind,
    epsilon: float,
    pattern: NoisePattern,
    scales: Sequence[int],
    generator: Generator,
    turn: int = 0,
) -> Tensor:
    """Noise of the given kind and pattern for images (B, C, H, W).

    Args:
        like: Gives shape and device.
        kind: Distribution of each pixel's noise.
        epsilon: Its size.
        pattern: "pixel" is independent; "image" one value for all pixels; "blocks" constant on the cells of a grid,
            "smooth" bilinear between them; "mixture" deals pixel, image, and blocks and smooth at every scale to the
            images in turn.
        scales: Cells along a side, for blocks, smooth and mixture; several are dealt in turn.
        generator: On the device of `like`.
        turn: Where the dealing begins.
    """
    recipes: list[tuple[NoisePattern, int]]
    match pattern:
        case "pixel" | "image":
            recipes = [(pattern, 1)]
        case "blocks" | "smooth":
            recipes = [(pattern, cells) for cells in scales]
        case "mixture":
            recipes = [("pixel", 1), ("image", 1)]
            recipes += [(each, cells) for cells in scales for each in ("blocks", "smooth")]
    if len(recipes) == 1:
        return _one_pattern(like, recipes[0], kind=kind, epsilon=epsilon, generator=generator)
    noise = torch.empty(like.shape, device=like.device, dtype=torch.float32)
    for k in range(min(len(recipes), len(like))):
        share, recipe = slice(k, None, len(recipes)), recipes[(k + turn) % len(recipes)]
        noise[share] = _one_pattern(like[share], recipe, kind=kind, epsilon=epsilon, generator=generator)
    return noise


def _one_pattern(
    like: Tensor, recipe: tuple[NoisePattern, int], *, kind: NoiseKind, epsilon: float, generator: Generator
) -> Tensor:
    pattern, cells = recipe
    if pattern == "pixel":
        return INDEPENDENT[kind](like, epsilon=epsilon, generator=generator)
    field = gaussian_field(like, cells=cells, smooth=pattern == "smooth", generator=generator)
    return from_gaussian(field, kind=kind, epsilon=epsilon).expand(like.shape)


BLURRED_DEVIATION = 1.5
"""Of independent standard normal pixels that were `blurred`, away from the border: 1 + 1/4 + 1/4."""


def blurred(field: Tensor) -> Tensor:
    """(B, C, H, W) -> the same: each pixel and its neighbours, that beside it by half, that across by a quarter."""
    channels = field.shape[1]
    beside = torch.arange(-1, 2, device=field.device, dtype=torch.float32).abs()  # no list, for which a GPU would wait
    kernel = 1 - beside / 2
    weight = (kernel[:, None] * kernel).expand(channels, 1, 3, 3)
    with torch.autocast(field.device.type, enabled=False):
        return conv2d(field, weight, padding=1, groups=channels)


def noise_like(images: Tensor, seed: int = 0) -> Tensor:
    """Uniform in [0, 1], float32, like `images`: from the CPU, and so the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.rand(images.shape, generator=generator, device="cpu", dtype=torch.float32).to(images)


def draw_for_each(images: Tensor, seeds: Iterable[int], draw: Callable[[Tensor, Generator], Tensor]) -> Tensor:
    """`draw(image, generator)` for each of (B, C, H, W), every image with a seed of its own.

    So what an image gets depends neither on the other images of its batch nor on the number of processes.
    """
    generator = torch.Generator(images.device)
    return torch.stack([draw(x, generator.manual_seed(seed)) for x, seed in zip(images, seeds, strict=True)])
