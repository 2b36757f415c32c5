"""A model held still while it is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_sq.layers.eval_mode import in_eval_mode


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Eval mode, and no gradient for the weights: an attack wants only that of the pixels. Put back afterwards.

    Args:
        model: An nn.Module; any other function from pixels to logits is left alone.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with in_eval_mode(model):
        try:
            for weight in weights:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)
