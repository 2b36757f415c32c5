"""Transfer: what fools another model, tried on this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_sq.attacks.frozen import frozen
from lightning_sq.attacks.interface import Attack, Model


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
        with frozen(self.source):
            return self.attack(self.source, images, labels, seeds, epsilon)
