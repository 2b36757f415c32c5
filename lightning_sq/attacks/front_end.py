"""A model taken apart at its quantizer: what BPDA and the quantized-box attack stand on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.layers.soft_quantization import SoftQuantization

Quantizer = Callable[[Tensor], Tensor]
"""Elementwise and non-decreasing, pixels to pixels."""


class Quantized(Protocol):
    """A model that shows its quantizer and what is behind it, as `PixelClassifier` and `TakenApart` do."""

    @property
    def quantizer(self) -> Quantizer | None: ...

    @property
    def network(self) -> Callable[[Tensor], Tensor]: ...

    def with_quantizer(self, quantizer: Quantizer) -> Any: ...


class TakenApart(nn.Module):
    """network(quantizer(x)).

    Args:
        quantizer: Elementwise and non-decreasing: a `SoftQuantization`, or any function with these two properties.
        network: From quantized pixels to logits.
    """

    def __init__(self, quantizer: Quantizer, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.network = network

    def with_quantizer(self, quantizer: Quantizer) -> TakenApart:
        """The same network behind another quantizer."""
        return TakenApart(quantizer, self.network).train(self.training)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.quantizer(images))


def take_apart(model: Any, images: Tensor, *, quantizer: Quantizer | None = None) -> Quantized | None:
    """The quantizer of `model` and the network behind it, or None where there is no quantizer in front.

    Args:
        model: Pixels to logits. A `PixelClassifier` shows its parts; in any other nn.Module that holds one
            `SoftQuantization` the layer is looked for, and taken out if the model is nothing but it and what follows.
        images: (B, C, H, W) in [0, 1], a few, on which that is checked.
        quantizer: For a foreign model: its own front end; `model` is then what is behind it.
    Raises: InputError if `quantizer` decreases somewhere: the attacks on it would prove nothing.
    """
    if quantizer is not None:
        check_non_decreasing(quantizer, images)
        return TakenApart(quantizer, model)
    if hasattr(model, "quantizer") and hasattr(model, "network"):
        return model if model.quantizer is not None else None
    return _found_inside(model, images) if isinstance(model, nn.Module) else None


def check_non_decreasing(quantizer: Quantizer, images: Tensor) -> None:
    """Raises: InputError if a quantizer is seen to decrease on a grid of 256 grey values."""
    grey = torch.linspace(0, 1, 256, device=images.device).view(-1, 1, 1, 1).expand(-1, *images.shape[1:])
    with torch.no_grad():
        values = quantizer(grey)
    if values.shape != grey.shape or (values.diff(dim=0) < -1e-6).any():
        raise InputError(
            "The quantizer is not an elementwise, non-decreasing function of the pixels. "
            "Leave quantizer out, and the model is attacked as a whole."
        )


@torch.no_grad()
def _found_inside(model: nn.Module, images: Tensor) -> TakenApart | None:
    names = [name for name, module in model.named_modules() if isinstance(module, SoftQuantization)]
    if len(names) != 1 or not names[0]:
        return None
    quantizer = model.get_submodule(names[0])
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    network = copy.deepcopy(model, shared)  # new modules around the same weights
    network.set_submodule(names[0], nn.Identity())
    apart = TakenApart(quantizer, network).train(model.training)
    return apart if torch.equal(apart(images), model(images)) else None
