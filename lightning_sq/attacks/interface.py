"""What an attack is given and what it gives back, and how it leaves images out of its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Settled(NamedTuple):
    """What an attack found that can prove as well.

    Args:
        images: Adversarial ones where it found some, else as they were: (B, C, H, W) in [0, 1].
        proven: (B,) bool: there are none within epsilon, up to float32 rounding.
    """

    images: Tensor
    proven: Tensor


Model = Callable[[Tensor], Tensor]
"""Pixels (B, C, H, W) -> logits (B, classes)."""
Attack = Callable[[Any, Tensor, Tensor, Sequence[int], float], Tensor]
"""(model, images, labels, seeds, epsilon) -> adversarial images."""
Prover = Callable[[Any, Tensor, Tensor, Sequence[int], float], Settled]
"""An attack that can prove as well."""


def for_rows(model: Any, rows: Tensor) -> Model:
    """`model` for a part of the batch that it was made for; a model that treats all images alike is given back.

    Args:
        model: What is called with the whole batch. A model that depends on the place in the batch, by a rule of its own
            for each image, has a method `for_rows(rows)`.
        rows: Numbers of the images that are left, (n,) int64.
    """
    return model.for_rows(rows) if hasattr(model, "for_rows") else model
