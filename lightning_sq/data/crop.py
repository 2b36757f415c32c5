"""Where to cut, how large to make it, and whether to flip: decided here once, carried out by either backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lightning_sq.errors import InputError


class Crop(NamedTuple):
    """One image's way to the network: cut a window, resize a box in it to the network's square, flip.

    Args:
        top, left, height, width: The window in the stored image, in pixels: all that is ever decoded or resized.
        box_top, box_left, box_bottom, box_right: What becomes the square (bilinear, antialiased), in pixels from the
            window's corner. It may begin between two pixels; those around it count as far as the filter reaches.
        flip: Mirror left and right.
    """

    top: int
    left: int
    height: int
    width: int
    box_top: float
    box_left: float
    box_bottom: float
    box_right: float
    flip: bool


class Shifts(NamedTuple):
    """Where each image of an epoch is cut out of itself with a margin of zeros around it: three arrays (N,)."""

    top: np.ndarray
    left: np.ndarray
    flip: np.ndarray


@dataclass(frozen=True)
class RandomShift:
    """The training rule of small images: moved by up to `max_shift` pixels along each axis, and filled with zeros.

    Args:
        max_shift: Pixels; 0 leaves every image where it is.
        flip_probability: Of a left-right mirror.
        shift_epochs: It moves in so many first epochs alone; None is all of them.
    """

    max_shift: int = 0
    flip_probability: float = 0.0
    shift_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise InputError(f"max_shift={self.max_shift} is negative. Write 0 for none, or 2.")
        if self.shift_epochs is not None and self.shift_epochs < 0:
            raise InputError(f"shift_epochs={self.shift_epochs} is negative. Leave it out for all epochs.")
        _check_flip_probability(self.flip_probability)

    def of_epoch(self, seed: int, epoch: int, num_images: int) -> Shifts:
        """What becomes of each image in `epoch`, by its number: the same on whichever rank it is read."""
        rng = generator_for(seed, epoch, 0)
        top, left = rng.integers(0, 2 * self.max_shift + 1, (2, num_images))
        if self.shift_epochs is not None and epoch >= self.shift_epochs:
            top, left = np.full((2, num_images), self.max_shift)
        return Shifts(top, left, rng.random(num_images) < self.flip_probability)


CropRule = Callable[[np.random.Generator, int, int], Crop]
"""(random generator, stored height, stored width) -> Crop."""


def random_resized_crop(
    image_size: int,
    *,
    min_crop_area: float = 0.25,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip_probability: float = 0.5,
) -> CropRule:
    """The training rule of Szegedy et al. 2015 (arXiv 1409.4842), as torchvision has it.

    Args:
        image_size: Height and width of the result.
        min_crop_area: Smallest share of the image's area that the window takes; the largest is 1.
        ratio: Range of its width / height, drawn uniformly in the logarithm.
        flip_probability: Of a left-right mirror; 0 where left and right matter.
    Raises: InputError for an image size, area or probability that cannot be.
    """
    check_image_size(image_size)
    if not 0 < min_crop_area <= 1:
        raise InputError(f"min_crop_area={min_crop_area} is not in (0, 1], a share of the image. Write 0.25 or 0.08.")
    _check_flip_probability(flip_probability)

    def rule(rng: np.random.Generator, height: int, width: int) -> Crop:
        window = _random_window(rng, height, width, (min_crop_area, 1.0), ratio)
        return Crop(*window, 0, 0, *window[2:], bool(rng.random() < flip_probability))

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
    """The validation rule: shorter side to `resize_size`, then the central square of `image_size`.

    Only what the square shows is resized, so a very long image costs no more than another one.

    Raises: InputError if the square does not fit into what it is cut from.
    """
    check_image_size(image_size)
    if resize_size < image_size:
        raise InputError(
            f"resize_size={resize_size} is smaller than image_size={image_size}. Leave it out for 8/7 of it."
        )

    def rule(rng: np.random.Generator, height: int, width: int) -> Crop:
        resized = [int(resize_size * length / min(height, width)) for length in (height, width)]
        top, h, box_top, box_bottom = _central_span(height, resized[0], image_size)
        left, w, box_left, box_right = _central_span(width, resized[1], image_size)
        return Crop(top, left, h, w, box_top, box_left, box_bottom, box_right, False)

    return rule


def _central_span(length: int, resized: int, image_size: int) -> tuple[int, int, float, float]:
    """Along one axis: the window's first pixel and length, and the box's start and end in it.

    The pixels `[o, o + image_size)` of the axis resized by `1 / s` are those of `[o s, (o + image_size) s)` before.
    """
    scale = length / resized
    offset = round((resized - image_size) / 2)
    start, end = offset * scale, min((offset + image_size) * scale, length)
    reach = max(scale, 1) + 1  # of the triangular filter, and one for rounding
    first, last = max(0, math.floor(start - reach)), min(length, math.ceil(end + reach))
    return first, last - first, start - first, end - first


def _check_flip_probability(flip_probability: float) -> None:
    if not 0 <= flip_probability <= 1:
        raise InputError(f"flip_probability={flip_probability} is not in [0, 1]. Write 0.5, or 0 for no flips.")


def check_image_size(image_size: int) -> None:
    """Raises: InputError if nothing is left to look at."""
    if image_size < 1:
        raise InputError(f"image_size={image_size} is not at least 1 pixel. Write 224.")


def generator_for(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one image in one epoch, the same on whichever rank or backend it is read."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, 0, 0, index]))
