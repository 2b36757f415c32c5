"""Expectation over transformation: attacks on the mean of a model that is random (arXiv 1707.07397)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_sq.attacks.bpda import BPDA
from lightning_sq.attacks.draws import OverDraws
from lightning_sq.attacks.interface import Attack, Model
from lightning_sq.attacks.quantized_box import QuantizedBox
from lightning_sq.errors import InputError


@dataclass(frozen=True)
class Expectation:
    """Another attack on a model that is random, over several draws of it (Athalye et al. 2018, arXiv 1707.07397).

    Args:
        attack: The attack: `PGD` follows the mean gradient of its criterion, any other that of the mean logits.
        num_draws: Forward passes an evaluation of the model.
    """

    attack: Attack
    num_draws: int = 20

    def __post_init__(self) -> None:
        if self.num_draws < 1:
            raise InputError(f"num_draws={self.num_draws} is not at least 1.")
        if isinstance(self.attack, BPDA | QuantizedBox):
            outer = type(self.attack).__name__
            raise InputError(
                f"The mean over draws shows no quantizer. Write {outer}(Expectation(...)), not the reverse."
            )

    def __call__(self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """See `PGD.__call__`."""
        return self.attack(OverDraws(model, self.num_draws), images, labels, seeds, epsilon)
