"""What a quantizer may be made of: each check gives back the value, or raises an InputError that says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import get_args

import torch
from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.ops.staircases import Staircase
from lightning_sq.words import counted

MOST_LEVELS = 2**24
"""float32 cannot tell more numbers in [0, 1] from each other."""

FARTHEST = 10.0
"""Where no training moves a threshold, and where those begin that were given in 8-bit steps."""

Thresholds = Sequence[float] | Sequence[Sequence[float]] | Tensor


def check_num_levels(num_levels: int) -> int:
    """`num_levels` itself. Raises: InputError if it is not a whole number in [2, `MOST_LEVELS`]."""
    if isinstance(num_levels, bool) or num_levels not in range(2, MOST_LEVELS + 1):
        raise InputError(
            f"num_levels={num_levels} is not a count of at least 2. 2 keeps black and white, 256 is 8 bits."
        )
    return int(num_levels)


def check_sharpness(sharpness: float) -> float:
    """`sharpness` itself. Raises: InputError if it is not a finite number above 0."""
    if not (isinstance(sharpness, Real) and 0 < sharpness < math.inf):
        raise InputError(f"sharpness={sharpness} is not a finite number above 0. For the limit, set hard=True.")
    return float(sharpness)


def check_floats(x: Tensor) -> Tensor:
    """`x` itself. Raises: InputError for integers, which would be taken for intensities in [0, 1]."""
    if not x.is_floating_point():
        raise InputError(f"The intensities are {x.dtype}, and have to be floats in [0, 1]. Divide uint8 by 255.")
    return x


def check_staircase(staircase: Staircase) -> Staircase:
    """`staircase` itself. Raises: InputError if it is none of ours."""
    if staircase not in get_args(Staircase):
        raise InputError(f"staircase={staircase!r} is not one of {', '.join(get_args(Staircase))}.")
    return staircase


def check_thresholds(thresholds: Thresholds, *, num_levels: int, learnt: bool = False) -> Tensor:
    """`thresholds` as a float64 tensor on the CPU, (K-1,) or (C, K-1).

    Those that are `learnt` may lie anywhere near, in any order, because training moves them; they come back sorted.

    Raises: InputError if they are not K-1 numbers (or K-1 for each of C channels), increasing, strictly inside (0, 1).
    """
    wanted = num_levels - 1
    try:
        values = torch.as_tensor(thresholds, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"thresholds={thresholds} is neither a list of numbers nor one list of the same length for each channel. "
            f"Give {counted(wanted, 'increasing number')} between 0 and 1, or leave thresholds out for equal distances."
        ) from None
    if values.ndim not in (1, 2) or values.shape[-1] != wanted or not len(values):
        raise InputError(
            f"thresholds has the shape {tuple(values.shape)}, and {num_levels} levels have {wanted} between them. "
            f"Give {counted(wanted, 'number')}, or {wanted} for each channel, "
            "or set num_levels to one more than there are."
        )
    if learnt and (values.abs() < FARTHEST).all():
        return values.sort(-1).values
    inside = (values > 0) & (values < 1)
    if not inside.all():
        raise InputError(
            f"The threshold {values[~inside][0].item():g} is not between 0 and 1, black and white. "
            "Divide 8-bit thresholds by 255."
        )
    falls = values.diff() <= 0
    if falls.any():
        before, after = values[..., :-1][falls][0].item(), values[..., 1:][falls][0].item()
        raise InputError(f"The threshold {after:g} comes after {before:g}. Sort them, and leave out doubles.")
    return values
