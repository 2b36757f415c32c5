"""A model held still while it is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Eval mode, and no gradient for the weights: an attack wants only that of the pixels. Put back afterwards.

    Args:
        model: An nn.Module; any other function from pixels to logits is left alone.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    weights = [weight for weight in model.parameters() if weight.requires_grad] if modules else []
    try:
        for module in modules:
            module.training = False
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for weight in weights:
            weight.requires_grad_(True)
