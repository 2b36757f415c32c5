"""Expectation over transformation: attacks on the mean of a model that is random (arXiv 1707.07397)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_sq.attacks.bpda import Attack
from lightning_sq.attacks.draws import OverDraws
from lightning_sq.attacks.rows import Model
from lightning_sq.errors import InputError


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

    def __post_init__(self) -> None:
        if self.num_draws < 1:
            raise InputError(f"num_draws={self.num_draws} is not at least 1.")

    def __call__(self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """See `PGD.__call__`."""
        return self.attack(expectation(model, self.num_draws), images, labels, seeds, epsilon)
