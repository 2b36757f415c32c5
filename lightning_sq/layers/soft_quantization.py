"""The layer that this project exists for."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.ops.soft_quantize import (
    check_num_levels,
    check_sharpness,
    hard_quantize,
    replace_backward,
    soft_quantize,
)

Backward = Literal["exact", "identity", "surrogate"]


class SoftQuantization(nn.Module):
    r"""Rounds pixels to `num_levels` values, softly: Q_a(x) = d sum_k sigmoid(a (x - t_k)).

    d = 1/(K-1) and t_k = (k - 1/2) d for k = 1..K-1; as the sharpness a grows, Q_a tends to round(x (K-1)) / (K-1).

    Args:
        num_levels: K >= 2, a count, not bits.
        sharpness: a > 0, in 1 / (full pixel range). With two levels 30 moves from 5 % to 95 % over 0.2.
        hard: Round exactly, the limit of infinite sharpness.
        backward: Derivative of the layer. "exact": its own (for hard=True, 0); "identity": 1, straight-through;
            "surrogate": that of a soft quantizer of `surrogate_sharpness`. The last two are what BPDA attacks use.
        surrogate_sharpness: See `backward`.
    Shape: any shape in [0, 1] in, the same out, in [0, 1].
    Raises: InputError for num_levels < 2, a sharpness that is not a finite number above 0, an unknown backward.
    Example:
        >>> import torch
        >>> SoftQuantization(num_levels=3, hard=True)(torch.tensor([0.2, 0.3, 0.8]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    def __init__(
        self,
        num_levels: int = 2,
        sharpness: float = 30.0,
        hard: bool = False,
        backward: Backward = "exact",
        surrogate_sharpness: float = 10.0,
    ) -> None:
        super().__init__()
        if backward not in get_args(Backward):
            raise InputError(f"backward={backward!r} is not one of {', '.join(get_args(Backward))}.")
        self.num_levels = check_num_levels(num_levels)
        self.sharpness = check_sharpness(sharpness)
        self.hard = hard
        self.backward_mode = backward
        self.surrogate_sharpness = check_sharpness(surrogate_sharpness)

    def with_backward(self, backward: Backward, surrogate_sharpness: float | None = None) -> SoftQuantization:
        """The same layer in the forward pass, with another derivative."""
        return SoftQuantization(
            self.num_levels, self.sharpness, self.hard, backward, surrogate_sharpness or self.surrogate_sharpness
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.hard:
            value = hard_quantize(x, num_levels=self.num_levels)
        else:
            value = soft_quantize(x, num_levels=self.num_levels, sharpness=self.sharpness)
        match self.backward_mode:
            case "identity":
                return replace_backward(value, x)
            case "surrogate":
                return replace_backward(
                    value, soft_quantize(x, num_levels=self.num_levels, sharpness=self.surrogate_sharpness)
                )
        return value

    def extra_repr(self) -> str:
        form = "hard=True" if self.hard else f"sharpness={self.sharpness:g}"
        return f"num_levels={self.num_levels}, {form}, backward={self.backward_mode!r}"
