"""Attacks on something else than the model itself: on its expectation over noise, or on another model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from lightning_sq.attacks.bpda import Attack

Model = Callable[[Tensor], Tensor]


def expectation(model: Model, num_draws: int) -> Model:
    """The mean of log softmax over forward passes, so that cross-entropy is its own mean over a model's noise.

    Expectation over transformation (Athalye et al. 2018, arXiv 1707.07397).
    """

    def averaged(images: Tensor) -> Tensor:
        return torch.stack([log_softmax(model(images), dim=1) for _ in range(num_draws)]).mean(0)

    return averaged


@dataclass(frozen=True)
class Expectation:
    """Another attack on the `expectation` of a model that is random.

    Args:
        attack: The attack.
        num_draws: Forward passes an evaluation of the model.
    """

    attack: Attack
    num_draws: int = 20

    def __call__(self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """See `PGD.__call__`."""
        return self.attack(expectation(model, self.num_draws), images, labels, seeds, epsilon)


@dataclass(frozen=True)
class Transfer:
    """What fools another model, tried on this one. No gradient of this model is used: it cannot hide anything.

    Args:
        source: Pixels to logits, over the same classes.
        attack: On the source; it should look for its largest criterion (`stop_when_fooled=False`).
    """

    source: Any
    attack: Attack

    def __call__(self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """See `PGD.__call__`; `model` is not called."""
        return self.attack(self.source, images, labels, seeds, epsilon)
