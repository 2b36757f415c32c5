"""The control: natural samples as they are."""

from __future__ import annotations

from torch import Tensor

from lightning_sq.objectives.base import Objective


class Natural(Objective):
    """E CE(f(x), y)."""

    def perturb(self, images: Tensor) -> Tensor:
        return images
