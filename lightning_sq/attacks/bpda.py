"""BPDA: the model as it is in the forward pass, with a derivative for what has none (arXiv 1802.00420)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from lightning_sq.attacks.front_end import Quantized, Quantizer, check_shown, is_ours
from lightning_sq.attacks.interface import Attack
from lightning_sq.errors import InputError
from lightning_sq.layers.soft_quantization import SURROGATE_SHARPNESS, Backward
from lightning_sq.ops.checks import check_sharpness
from lightning_sq.ops.replace_backward import replace_backward
from lightning_sq.ops.smallest import SMALLEST
from lightning_sq.types import PIXEL_BOUNDS


def with_bpda(model: Quantized, backward: Backward = "identity", surrogate_sharpness: float | None = None) -> Any:
    """The same model with another derivative of its quantizer; a model without a quantizer is given back as it is.

    Args:
        model: Anything that shows its quantizer.
        backward: See `quantizer_with_backward`.
        surrogate_sharpness: See `quantizer_with_backward`.
    Raises: InputError for a model that shows no quantizer, such as a function.
    """
    check_shown(model)
    if model.quantizer is None:
        return model
    return model.with_quantizer(quantizer_with_backward(model.quantizer, backward, surrogate_sharpness))


def quantizer_with_backward(
    quantizer: Quantizer, backward: Backward = "identity", surrogate_sharpness: float | None = None
) -> Quantizer:
    """The same function with another derivative.

    Args:
        quantizer: Ours, or any that is elementwise and non-decreasing.
        backward: "exact", "identity" or "surrogate" (the slope of a softer staircase); see `SoftQuantization`. For a
            quantizer that is not ours the softer slope at x is the mean one over x -+ 1 / sharpness, cut to [0, 1].
        surrogate_sharpness: Of the softer staircase; None is that of our quantizer, or `SURROGATE_SHARPNESS`.
    Raises: InputError for what `check_backward` refuses.
    """
    check_backward(backward, surrogate_sharpness)
    if is_ours(quantizer):
        return quantizer.with_backward(backward, surrogate_sharpness)
    softer = SURROGATE_SHARPNESS if surrogate_sharpness is None else surrogate_sharpness

    def quantize(x: Tensor) -> Tensor:
        match backward:
            case "identity":
                return replace_backward(quantizer(x), x)
            case "surrogate":
                slope = _mean_slope(quantizer, x.detach(), 1 / softer)
                return replace_backward(quantizer(x), x * slope)
        return quantizer(x)

    return quantize


def check_backward(backward: Backward, surrogate_sharpness: float | None) -> None:
    """Raises: InputError for a derivative that there is not, or a sharpness that is none or that it does not read."""
    if backward not in get_args(Backward):
        raise InputError(f"backward={backward!r} is not one of {', '.join(get_args(Backward))}.")
    if surrogate_sharpness is not None:
        check_sharpness(surrogate_sharpness)
        if backward != "surrogate":
            raise InputError(f"surrogate_sharpness={surrogate_sharpness} needs backward=surrogate, not {backward}.")


def _mean_slope(quantizer: Quantizer, x: Tensor, distance: float) -> Tensor:
    """Over x -+ distance, where there are pixels: a table, say, knows none beyond black and white."""
    low, high = (end.clamp(*PIXEL_BOUNDS) for end in (x - distance, x + distance))
    return (quantizer(high) - quantizer(low)) / (high - low).clamp(min=SMALLEST)


@dataclass(frozen=True)
class BPDA:
    """Another attack on the model that `with_bpda` makes.

    Args:
        attack: The attack.
        backward: See `quantizer_with_backward`.
        surrogate_sharpness: See `quantizer_with_backward`.
    """

    attack: Attack
    backward: Backward = "identity"
    surrogate_sharpness: float | None = None

    def __post_init__(self) -> None:
        check_backward(self.backward, self.surrogate_sharpness)

    def __call__(self, model: Any, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """See `PGD.__call__`; the model shows its quantizer. Raises: InputError for one that does not."""
        return self.attack(with_bpda(model, self.backward, self.surrogate_sharpness), images, labels, seeds, epsilon)
