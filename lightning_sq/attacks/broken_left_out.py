"""AutoAttack's APGD without the work on images that it has broken already: the package goes on with all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_sq.attacks.criteria import margin

CLEARLY = 1e-4
"""Of the largest logit: by so much an image has to be misclassified, so that another rounding cannot undo it."""


class BrokenLeftOut:
    """A model for one run of APGD, which does not mix its images: one that was misclassified is not asked about again.

    Its last logits stand for it, with a gradient of 0, so that the images that are left go the way they would have
    gone. `found` (B, C, H, W) holds the first adversarial version of those in `broken` (B,) bool.

    Args:
        model: Pixels to logits, each image for itself.
        images: (B, C, H, W), the natural ones.
        labels: (B,) int64.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> None:
        self.model, self.labels = model, labels
        self.found = images.clone()
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._logits: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        rows = torch.nonzero(~self.broken)[:, 0]
        if self._logits is None:
            logits = self.model(x)
        else:
            logits = self._logits + 0 * x.flatten(1).sum(1, keepdim=True)
            if len(rows):
                logits = logits.index_copy(0, rows, self.model(x[rows]))
        self._logits = logits.detach()
        wrong = margin(self._logits, self.labels) > CLEARLY * self._logits.abs().amax(1)
        new = wrong & ~self.broken
        self.found[new] = x.detach()[new]
        self.broken |= new
        return logits


def leave_broken_out(apgd: Any) -> None:
    """Let every run of pyautoattack's APGD ask about unbroken images alone.

    Args:
        apgd: An APGDAttack, targeted or not, whose model gives the same logits for the same image.
    """
    model, whole_run = apgd.model, apgd.attack_single_run

    def run(x: Tensor, y: Tensor, x_init: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        apgd.model = watched = BrokenLeftOut(model, x, y)
        try:
            best, robust, loss, adversarial = whole_run(x, y, x_init)
        finally:
            apgd.model = model
        adversarial[watched.broken] = watched.found[watched.broken]
        return best, robust & ~watched.broken, loss, adversarial

    apgd.attack_single_run = run
