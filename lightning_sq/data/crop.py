"""Where to cut, how large to make it, and whether to flip: decided here once, carried out by either backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Crop(NamedTuple):
    """One image's way to the network: cut a window, resize it, cut the centre, flip. Lengths in pixels.

    Args:
        top, left, height, width: The window in the stored image.
        resized_height, resized_width: What the window is resized to (bilinear, antialiased).
        offset_top, offset_left: Where the final square begins in the resized window.
        flip: Mirror left and right.
    """

    top: int
    left: int
    height: int
    width: int
    resized_height: int
    resized_width: int
    offset_top: int
    offset_left: int
    flip: bool


CropRule = Callable[[np.random.Generator, int, int], Crop]
"""(random generator, stored height, stored width) -> Crop."""


def random_resized_crop(
    image_size: int,
    *,
    scale: tuple[float, float] = (0.25, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip_probability: float = 0.5,
) -> CropRule:
    """The training rule of Szegedy et al. 2015 (arXiv 1409.4842), as torchvision has it.

    Args:
        image_size: Height and width of the result.
        scale: Range of the window's share of the image's area.
        ratio: Range of its width / height, drawn uniformly in the logarithm.
        flip_probability: Of a left-right mirror; 0 where left and right matter.
    """

    def rule(rng: np.random.Generator, height: int, width: int) -> Crop:
        window = _random_window(rng, height, width, scale, ratio)
        return Crop(*window, image_size, image_size, 0, 0, bool(rng.random() < flip_probability))

    return rule


def _random_window(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    # a very long image: the largest centred window of an allowed shape
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def resize_and_center_crop(image_size: int, *, resize_size: int) -> CropRule:
    """The validation rule: shorter side to `resize_size`, then the central square of `image_size`."""

    def rule(rng: np.random.Generator, height: int, width: int) -> Crop:
        if height <= width:
            resized = resize_size, int(resize_size * width / height)
        else:
            resized = int(resize_size * height / width), resize_size
        top, left = (round((length - image_size) / 2) for length in resized)
        return Crop(0, 0, height, width, *resized, top, left, False)

    return rule


def generator_for(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one image in one epoch, the same on whichever rank or backend it is read."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, index]))
