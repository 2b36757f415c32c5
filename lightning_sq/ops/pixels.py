"""Are these pixels? Asked once, where images come in: the answer makes a GPU wait, so no layer asks it."""

from __future__ import annotations

import math

from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.types import PIXEL_BOUNDS

ROUNDING = 1e-5
"""How far outside [0, 1] resizing in float32 may leave a pixel that was inside."""


def check_pixels(images: Tensor, where: str = "the images") -> Tensor:
    """`images` themselves, if all are numbers in [0, 1].

    Args:
        images: Any shape, on any device; one pass, one number pair back to the CPU.
        where: How the message names them, such as "the first training batch".
    Raises: InputError for integers, NaN, infinities and numbers outside [0, 1], with the likely cause.
    """
    found = f"Pixels in {where} are to be floats in [0, 1], and"
    if not images.is_floating_point():
        raise InputError(f"{found} these are {images.dtype}: not scaled. Divide uint8 by 255.")
    if not images.numel():
        return images
    low, high = (value.item() for value in images.detach().aminmax())  # NaN if there is one
    if not math.isfinite(low + high):
        raise InputError(f"{found} some are NaN or infinite. Look for a division by 0 or a damaged file before this.")
    if PIXEL_BOUNDS[0] - ROUNDING <= low and high <= PIXEL_BOUNDS[1] + ROUNDING:
        return images
    found += f" these are in [{low:g}, {high:g}]:"
    if low < PIXEL_BOUNDS[0] - ROUNDING:
        raise InputError(
            f"{found} already normalised? Give pixels, the model normalises; clip what noise or resizing add."
        )
    if high > 2 * PIXEL_BOUNDS[1]:
        raise InputError(f"{found} uint8 not scaled? Divide by 255.")
    raise InputError(f"{found} noise or resizing went over white? Clip to [0, 1].")
