"""An attack that notes what it saw, so that what it gives back can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_sq.attacks.criteria import margin
from lightning_sq.attacks.interface import Attack, Model, for_rows


class Watched:
    """Another attack; `seen` (B,) bool says for which images the model it was given was fooled at any time."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.seen = torch.zeros(0, dtype=torch.bool, device="cpu")

    def __call__(self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """See `PGD.__call__`."""
        self.seen = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        rows = torch.arange(len(images), device=images.device)
        return self.attack(_WatchedModel(model, labels, self.seen, rows), images, labels, seeds, epsilon)


@dataclass(frozen=True)
class _WatchedModel:
    model: Any
    labels: Tensor
    seen: Tensor
    rows: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        self.seen[self.rows] |= margin(logits.detach(), self.labels[self.rows]) > 0
        return logits

    def for_rows(self, rows: Tensor) -> _WatchedModel:
        return _WatchedModel(for_rows(self.model, rows), self.labels, self.seen, self.rows[rows])
