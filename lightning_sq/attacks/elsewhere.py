"""Attacks on something else than the model itself: on its expectation over noise, or on another model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_sq.attacks.bpda import Attack
from lightning_sq.attacks.draws import OverDraws

Model = Callable[[Tensor], Tensor]


def expectation(model: Model, num_draws: int) -> Model:
    """The mean of the logits over forward passes; `PGD` takes the mean of its criterion instead. See `OverDraws`."""
    return OverDraws(model, num_draws)


@dataclass(frozen=True)
class Expectation:
    """Another attack on the `expectation` of a model that is random (Athalye et al. 2018, arXiv 1707.07397).

    Args:
        attack: The attack: `PGD` follows the mean gradient of its criterion, any other that of the mean logits.
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
