"""BPDA: the model as it is in the forward pass, with a derivative for what has none (arXiv 1802.00420)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_sq.attacks.front_end import Quantized, Quantizer
from lightning_sq.attacks.rows import Attack
from lightning_sq.layers.soft_quantization import Backward
from lightning_sq.ops.replace_backward import replace_backward


def bpda(model: Quantized, backward: Backward = "identity", surrogate_sharpness: float | None = None) -> Any:
    """The same model with another derivative of its quantizer; a model without a quantizer is given back as it is.

    Args:
        model: Anything that shows its quantizer.
        backward: "identity" or "surrogate" (the slope of a softer staircase); see `SoftQuantization`. For a quantizer
            that is not ours the softer slope at x is that of Q averaged over x -+ 1 / sharpness.
        surrogate_sharpness: Of the softer staircase.
    """
    quantizer = model.quantizer
    if quantizer is None:
        return model
    if hasattr(quantizer, "with_backward"):
        return model.with_quantizer(quantizer.with_backward(backward, surrogate_sharpness))
    return model.with_quantizer(_with_backward(quantizer, backward, surrogate_sharpness or 10.0))


def _with_backward(quantizer: Quantizer, backward: Backward, sharpness: float) -> Quantizer:
    def quantize(x: Tensor) -> Tensor:
        if backward == "exact":
            return quantizer(x)
        slope = 1.0
        if backward == "surrogate":
            slope = (quantizer(x.detach() + 1 / sharpness) - quantizer(x.detach() - 1 / sharpness)) * sharpness / 2
        return replace_backward(quantizer(x), x * slope)

    return quantize


@dataclass(frozen=True)
class BPDA:
    """Another attack on the model that `bpda` makes.

    Args:
        attack: The attack.
        backward: See `bpda`.
        surrogate_sharpness: See `bpda`.
    """

    attack: Attack
    backward: Backward = "identity"
    surrogate_sharpness: float | None = None

    def __call__(self, model: Any, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """See `PGD.__call__`; the model shows its quantizer."""
        return self.attack(bpda(model, self.backward, self.surrogate_sharpness), images, labels, seeds, epsilon)
