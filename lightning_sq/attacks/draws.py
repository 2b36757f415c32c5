"""A random model, asked several times: what an attack maximises is then the mean of its criterion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_sq.attacks.criteria import Criterion
from lightning_sq.attacks.interface import for_rows


@dataclass(frozen=True)
class OverDraws:
    """The mean of a model's logits over forward passes: their softmax is the geometric mean of those of the draws,
    made to sum to 1 again.

    Its cross-entropy is not the mean of theirs, but at most that; `logits_and_values` gives the mean itself.

    Args:
        model: Pixels to logits, at random.
        num_draws: Forward passes.
    """

    model: Any
    num_draws: int

    def draws(self, images: Tensor) -> Tensor:
        """Logits (draws, B, classes)."""
        return torch.stack([self.model(images) for _ in range(self.num_draws)])

    def __call__(self, images: Tensor) -> Tensor:
        return self.draws(images).mean(0)

    def for_rows(self, rows: Tensor) -> OverDraws:
        """For some of the images; see `attacks.interface`."""
        return replace(self, model=for_rows(self.model, rows))


def logits_and_values(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, criterion: Criterion
) -> tuple[Tensor, Tensor]:
    """Logits (B, classes) and the criterion (B,); of an `OverDraws` the mean of both over its draws.

    `gradients.ascent` gives its gradient too.
    """
    if not isinstance(model, OverDraws):
        logits = model(images)
        return logits, criterion(logits, labels)
    draws = model.draws(images)
    return draws.mean(0), torch.stack([criterion(logits, labels) for logits in draws]).mean(0)
