"""The layer that this project exists for."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.ops.checks import (
    Thresholds,
    check_num_levels,
    check_sharpness,
    check_staircase,
    check_thresholds,
)
from lightning_sq.ops.replace_backward import replace_backward
from lightning_sq.ops.soft_quantize import hard_quantize, soft_quantize
from lightning_sq.ops.staircases import Staircase
from lightning_sq.ops.thresholds import smallest_gap, uniform_thresholds

Backward = Literal["exact", "identity", "surrogate"]
SURROGATE_SHARPNESS = 10.0
"""Of a softer staircase whose slope is taken, where nobody says another."""


class SoftQuantization(nn.Module):
    r"""Rounds pixels to `num_levels` values, softly: Q_a(x) = d sum_k sigmoid(a (x - t_k)).

    d = 1/(K-1) and t_k = (k - 1/2) d for k = 1..K-1; as the sharpness a grows, Q_a tends to round(x (K-1)) / (K-1).
    With nothing to learn, the layer adds nothing to a state_dict.

    Args:
        num_levels: K >= 2, a count, not bits.
        sharpness: a > 0, in 1 / (full pixel range). With two levels 30 moves from 5 % to 95 % over 0.2.
        hard: Round exactly, the limit of infinite sharpness.
        backward: Derivative of the layer. "exact": its own (for hard=True, 0); "identity": 1, straight-through;
            "surrogate": that of a soft quantizer of `surrogate_sharpness`. The last two are what BPDA attacks use.
        surrogate_sharpness: See `backward`.
        staircase: "sigmoid", the sum above, or "tanh", one tanh between two levels, which meets the levels exactly
            (Gong et al. 2019, arXiv 1908.05033); both have the same slope scale. See `ops.staircases`.
        thresholds: Other t_k: K-1 increasing numbers in (0, 1), or K-1 for each of C channels. Levels stay k / (K-1).
        learnable_thresholds: Make them a parameter, which starts at `thresholds`. Training may move them past each
            other or out of (0, 1): they are sorted at each use, and one outside is never reached. Sigmoids are then
            summed over all K-1, as their distances are not known; with many levels the tanh staircase is cheaper.
        learnable_sharpness: Make log a the parameter `log_sharpness`, so that a stays above 0.
    Shape: any shape in [0, 1] in, the same out, in [0, 1]; (..., C, H, W) if each channel has its thresholds.
    Raises: InputError for num_levels < 2, a sharpness that is not a finite number above 0, an unknown backward or
        staircase, thresholds that are not as above, a hard layer that is to learn its sharpness.
    Example:
        >>> import torch
        >>> SoftQuantization(num_levels=3, hard=True)(torch.tensor([0.2, 0.3, 0.8]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    thresholds: Tensor | None
    log_sharpness: nn.Parameter | None

    def __init__(
        self,
        num_levels: int = 2,
        sharpness: float = 30.0,
        hard: bool = False,
        backward: Backward = "exact",
        surrogate_sharpness: float = SURROGATE_SHARPNESS,
        staircase: Staircase = "sigmoid",
        thresholds: Thresholds | None = None,
        learnable_thresholds: bool = False,
        learnable_sharpness: bool = False,
    ) -> None:
        super().__init__()
        if backward not in get_args(Backward):
            raise InputError(f"backward={backward!r} is not one of {', '.join(get_args(Backward))}.")
        if hard and learnable_sharpness:
            raise InputError("A hard quantizer has no sharpness to learn. Leave out hard or learnable_sharpness.")
        self.num_levels = check_num_levels(num_levels)
        self.hard = hard
        self.backward_mode = backward
        self.surrogate_sharpness = check_sharpness(surrogate_sharpness)
        self.staircase = check_staircase(staircase)
        self.learnable_thresholds, self.learnable_sharpness = learnable_thresholds, learnable_sharpness
        self.register_parameter("log_sharpness", nn.Parameter(torch.zeros(())) if learnable_sharpness else None)
        self.sharpness = sharpness
        self._set_thresholds(thresholds)

    def _set_thresholds(self, given: Thresholds | None) -> None:
        values = None
        if given is not None:
            values = check_thresholds(given, num_levels=self.num_levels, learnt=self.learnable_thresholds).float()
        self._smallest_gap = 0.0 if values is None or self.learnable_thresholds else smallest_gap(values)
        if self.learnable_thresholds:
            start = uniform_thresholds(self.num_levels).float() if values is None else values
            self.thresholds = nn.Parameter(start)
        else:
            self.register_buffer("thresholds", values, persistent=False)

    @property
    def sharpness(self) -> float:
        """a. May be set while training goes on; a learnt one is a parameter, and looking at it waits for the GPU."""
        return self._sharpness if self.log_sharpness is None else math.exp(self.log_sharpness.item())

    @sharpness.setter
    def sharpness(self, sharpness: float) -> None:
        self._sharpness = check_sharpness(sharpness)
        if self.log_sharpness is not None:
            with torch.no_grad():
                self.log_sharpness.fill_(math.log(sharpness))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this layer as it now stands, but for the derivative: plain values, as in JSON."""
        given = self._increasing_thresholds()
        return {
            "num_levels": self.num_levels,
            "sharpness": self.sharpness,
            "hard": self.hard,
            "staircase": self.staircase,
            "thresholds": None if given is None else given.tolist(),
            "learnable_thresholds": self.learnable_thresholds,
            "learnable_sharpness": self.learnable_sharpness,
        }

    def with_backward(self, backward: Backward, surrogate_sharpness: float | None = None) -> SoftQuantization:
        """The same layer in the forward pass, with another derivative.

        What is learnt is shared with this layer; a sharpness that is a number is the one of now.
        """
        surrogate_sharpness = self.surrogate_sharpness if surrogate_sharpness is None else surrogate_sharpness
        other = SoftQuantization(
            self.num_levels, self._sharpness, self.hard, backward, surrogate_sharpness, self.staircase
        )
        for name in ("thresholds", "_smallest_gap", "learnable_thresholds", "log_sharpness", "learnable_sharpness"):
            setattr(other, name, getattr(self, name))
        other.training = self.training
        return other

    def forward(self, x: Tensor) -> Tensor:
        if self.hard:
            value = hard_quantize(x, num_levels=self.num_levels, thresholds=self._increasing_thresholds())
        else:
            a = self._sharpness if self.log_sharpness is None else self.log_sharpness.exp()
            value = self._soften(x, a)
        match self.backward_mode:
            case "identity":
                return replace_backward(value, x)
            case "surrogate":
                return replace_backward(value, self._soften(x, self.surrogate_sharpness))
        return value

    def _soften(self, x: Tensor, sharpness: float | Tensor) -> Tensor:
        return soft_quantize(
            x,
            num_levels=self.num_levels,
            sharpness=sharpness,
            staircase=self.staircase,
            thresholds=self._increasing_thresholds(),
            smallest_gap=self._smallest_gap,
        )

    def _increasing_thresholds(self) -> Tensor | None:
        return self.thresholds.sort(-1).values if self.learnable_thresholds else self.thresholds

    def extra_repr(self) -> str:
        form = "hard=True" if self.hard else f"sharpness={self.sharpness:g}"
        text = f"num_levels={self.num_levels}, {form}, backward={self.backward_mode!r}"
        if self.backward_mode == "surrogate":
            text += f", surrogate_sharpness={self.surrogate_sharpness:g}"
        if self.staircase != "sigmoid":
            text += f", staircase={self.staircase!r}"
        if self.thresholds is not None:
            text += f", thresholds={tuple(self.thresholds.shape)}"
        for name in ("learnable_thresholds", "learnable_sharpness"):
            text += f", {name}=True" * getattr(self, name)
        return text
