"""The words that every part of the project shares: a batch, the pixel range, a perturbation budget.

Shape legend: B images in a batch, C channels (3 for RGB, 1 for grey), H and W pixels, K quantization levels.
Pixels are float32, NCHW, in [0, 1] from the loader to the normaliser: nothing else is ever normalised.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, NamedTuple

from lightning_sq.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_BOUNDS = (0.0, 1.0)
Norm = Literal["linf", "l2"]
NORM_ELSEWHERE: dict[Norm, str] = {"linf": "Linf", "l2": "L2"}
"""How AutoAttack and RobustBench write it."""

Progress = Callable[[int, int], None]
"""What long work calls with how much is done and how much there is to do; `progress_bar` gives one."""

PADDING_INDEX = -1
"""The index of a sample that only fills a batch up, so that every rank has as many batches as the others."""


class Batch(NamedTuple):
    """What a loader yields.

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        labels: (B,) int64 class indices.
        indices: (B,) int64 positions in the dataset's index, or `PADDING_INDEX`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    @property
    def valid(self) -> Tensor:
        """(B,) bool: the samples that count; the others are padding."""
        return self.indices != PADDING_INDEX


def parse_epsilon(value: float | str, *, name: str = "epsilon", norm: Norm = "linf") -> float:
    """A perturbation budget in units of the full pixel range, from a number or a fraction such as `8/255`.

    Args:
        value: The number or fraction.
        name: How a message calls it.
        norm: Of the budget: at most 1 for "linf", any finite number for "l2".
    Raises: InputError if it is not a number, negative, or above what the norm allows.
    Example:
        >>> round(parse_epsilon("8/255"), 4)
        0.0314
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        epsilon = float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise InputError(f"{name}={value} is not a number. Write 8/255 or 0.03.") from None
    if norm == "linf" and not 0.0 <= epsilon <= 1.0:
        hint = f"Write {epsilon:g}/255 if you mean 8-bit steps" if epsilon > 1 else "Write 8/255 or 0.03"
        raise InputError(f"{name}={value} is not in [0, 1], the full pixel range. {hint}.")
    if not 0.0 <= epsilon < float("inf"):
        raise InputError(f"{name}={value} is not a number of at least 0. Write 0.5 or 128/255.")
    return epsilon


def format_epsilon(epsilon: float) -> str:
    """0.3 where two decimals say it all, 8/255 where people count in 8-bit steps, else three digits.

    They count so up to 16, and in eights above: 1/15 is 17/255 by chance.
    """
    if abs(epsilon - round(epsilon, 2)) < 1e-9:
        return f"{epsilon:g}"
    steps = round(epsilon * 255)
    in_steps = abs(epsilon * 255 - steps) < 1e-6 and (steps <= 16 or steps % 8 == 0)
    return f"{steps}/255" if in_steps else f"{epsilon:.3g}"
