"""Functions that treat each image of a batch by a rule of its own, and how an attack leaves images out of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Model = Callable[[Tensor], Tensor]
"""Pixels (B, C, H, W) -> logits (B, classes)."""
Attack = Callable[[Any, Tensor, Tensor, Sequence[int], float], Tensor]
"""(model, images, labels, seeds, epsilon) -> adversarial images."""


def for_rows(model: Any, rows: Tensor) -> Model:
    """`model` for a part of the batch that it was made for; a model that treats all images alike is given back.

    Args:
        model: What is called with the whole batch. A model that depends on the place in the batch has a method
            `for_rows(rows)`.
        rows: Numbers of the images that are left, (n,) int64.
    """
    return model.for_rows(rows) if hasattr(model, "for_rows") else model
