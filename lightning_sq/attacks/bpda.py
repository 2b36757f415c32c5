"""BPDA: the model as it is in the forward pass, with a derivative for what has none (arXiv 1802.00420)."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from lightning_sq.layers.soft_quantization import Backward, SoftQuantization


class Quantized(Protocol):
    """A model that shows its quantizer, as `PixelClassifier` does."""

    @property
    def quantizer(self) -> SoftQuantization | None: ...

    def with_quantizer(self, quantizer: SoftQuantization) -> Any: ...


Wrapped = TypeVar("Wrapped", bound=Quantized)


def bpda(model: Wrapped, backward: Backward = "identity", surrogate_sharpness: float | None = None) -> Wrapped:
    """The same model with another derivative of its quantizer; a model without a quantizer is given back as it is.

    Args:
        model: Anything that shows its quantizer.
        backward: "identity" or "surrogate" (the slope of a softer staircase); see `SoftQuantization`.
        surrogate_sharpness: Of the softer staircase.
    """
    if model.quantizer is None:
        return model
    return model.with_quantizer(model.quantizer.with_backward(backward, surrogate_sharpness))
