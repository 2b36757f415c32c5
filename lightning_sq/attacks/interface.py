"""What an attack is given and what it gives back, and how it leaves images out of its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_sq.errors import InputError

Found = TypeVar("Found")


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


def called_by_anybody(
    call: Callable[[Any, Any, Tensor, Tensor, Sequence[int], float], Found],
) -> Callable[[Any, Any, Tensor, Tensor, Sequence[int], float], Found]:
    """An attack's `__call__` that can have its gradients: outside inference mode, on images without a graph.

    Raises: InputError for an epsilon that is text, which `evaluate` alone reads.
    """

    @wraps(call)
    def called(self: Any, model: Any, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Found:
        if isinstance(epsilon, str):
            raise InputError(f"epsilon={epsilon!r} is text, and an attack by itself takes a number. Write {epsilon}.")
        with torch.inference_mode(False):
            return call(self, model, _plain(images), _plain(labels), seeds, epsilon)

    return called


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def for_rows(model: Any, rows: Tensor) -> Model:
    """`model` for a part of the batch that it was made for; a model that treats all images alike is given back.

    Args:
        model: What is called with the whole batch. A model that depends on the place in the batch, by a rule of its own
            for each image, has a method `for_rows(rows)`.
        rows: Numbers of the images that are left, (n,) int64.
    """
    return model.for_rows(rows) if hasattr(model, "for_rows") else model
