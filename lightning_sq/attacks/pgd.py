"""Projected gradient descent in the L-inf ball (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_sq.attacks.criteria import CRITERIA, margin
from lightning_sq.errors import InputError
from lightning_sq.ops.linf_ball import project, random_start

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PGD:
    """x <- project(x + step_size * sign(grad_x criterion)), the worst point of all steps and restarts.

    Args:
        epsilon: Radius of the ball, in units of the full pixel range.
        num_steps: Gradient steps; 1 without a random start is FGSM.
        step_size: Length of a step; None is 2.5 epsilon / num_steps, which can cross the ball.
        num_restarts: Starts; images that are fooled already are left out of the later ones.
        criterion: "cross_entropy" or "margin".
        from_random_start: Start at a random point of the ball, else at the image.
    """

    epsilon: float
    num_steps: int = 40
    step_size: float | None = None
    num_restarts: int = 1
    criterion: Literal["cross_entropy", "margin"] = "cross_entropy"
    from_random_start: bool = True

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.num_restarts < 1:
            raise InputError(f"num_steps={self.num_steps} and num_restarts={self.num_restarts} have to be at least 1.")
        if self.criterion not in CRITERIA:
            raise InputError(f"criterion={self.criterion!r} is not one of {', '.join(CRITERIA)}.")

    def __call__(self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int]) -> Tensor:
        """Adversarial images, like `images`: (B, C, H, W) in [0, 1] and within epsilon.

        Args:
            model: Pixels to logits.
            images: (B, C, H, W) in [0, 1].
            labels: (B,) int64.
            seeds: One for each image, for its random starts.
        """
        worst = _Worst(images)
        for restart in range(self.num_restarts):
            active = torch.nonzero(~worst.fooled)[:, 0]
            if len(active) == 0:
                break
            start_seeds = [seeds[i] * 1009 + restart for i in active.tolist()]
            self._descend(model, images[active], labels[active], start_seeds, worst, active)
        return worst.images

    def _descend(
        self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], worst: _Worst, active: Tensor
    ) -> None:
        step_size = 2.5 * self.epsilon / self.num_steps if self.step_size is None else self.step_size
        x = random_start(images, self.epsilon, seeds) if self.from_random_start else images.clone()
        for _ in range(self.num_steps):
            with torch.enable_grad():
                x.requires_grad_()
                logits = model(x)
                values = CRITERIA[self.criterion](logits, labels)
                (gradient,) = torch.autograd.grad(values.sum(), x)
            x = x.detach()
            worst.update(active, x, logits.detach(), labels, values.detach())
            x = project(x + step_size * gradient.sign(), images, self.epsilon)
        with torch.no_grad():
            logits = model(x)
            worst.update(active, x, logits, labels, CRITERIA[self.criterion](logits, labels))


class _Worst:
    """For each image the point that fools the model, else the one with the largest criterion."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._values = torch.full((len(images),), float("-inf"), device=images.device)

    def update(self, active: Tensor, x: Tensor, logits: Tensor, labels: Tensor, values: Tensor) -> None:
        fooled = margin(logits, labels) > 0
        better = (fooled & ~self.fooled[active]) | ((fooled == self.fooled[active]) & (values > self._values[active]))
        index = active[better]
        self.images[index], self.fooled[index] = x[better], fooled[better]
        self._values[index] = values[better].to(self._values.dtype)
