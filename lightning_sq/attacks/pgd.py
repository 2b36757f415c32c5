"""Projected gradient descent in an L-inf or L2 ball (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import torch
from torch import Tensor

from lightning_sq.attacks.criteria import CRITERIA, fooled, likeliest_wrong_class, margin, towards
from lightning_sq.attacks.draws import logits_and_values
from lightning_sq.attacks.gradients import ascent
from lightning_sq.attacks.interface import Model, called_by_anybody, for_rows
from lightning_sq.errors import InputError
from lightning_sq.ops import l2_ball, linf_ball
from lightning_sq.types import Norm

BALLS = {"linf": linf_ball, "l2": l2_ball}
RESTART_STRIDE = 1009
"""Between the seeds of two restarts of an image."""


@dataclass(frozen=True)
class PGD:
    """x <- project(x + step * steepest(v)), v <- momentum v + g / ||g||_1, g the criterion's gradient at x.

    With one step from the image itself, of the ball's radius, this is FGSM (`FGSM`).

    Args:
        num_steps: Gradient steps.
        step_size: Length of a step, in radii of the ball; None is 2.5 / num_steps, which can cross the ball.
        schedule: "constant", or "cosine": from twice that towards 0.
        momentum: Of the gradient, 0 for none; 1 is MI-FGSM's (Dong et al. 2018, arXiv 1710.06081).
        num_restarts: Starts; images that are fooled already are left out of the later ones.
        criterion: "cross_entropy", "margin" or "dlr".
        targeted: Restart r raises the r-th likeliest wrong class over the label; the criterion is then their margin.
        from_random_start: Start at a random point of the ball, else at the image.
        stop_when_fooled: An image is left in peace once it fools the model. False looks for the largest criterion
            instead, which carries over better to another model.
        norm: Of the ball, "linf" or "l2".
    """

    num_steps: int = 40
    step_size: float | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = 0.0
    num_restarts: int = 1
    criterion: str = "cross_entropy"
    targeted: bool = False
    from_random_start: bool = True
    stop_when_fooled: bool = True
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.num_restarts < 1:
            raise InputError(f"num_steps={self.num_steps} and num_restarts={self.num_restarts} have to be at least 1.")
        if not (self.step_size is None or (isinstance(self.step_size, Real) and 0 < self.step_size < math.inf)):
            raise InputError(f"step_size={self.step_size} is no length above 0, in radii of the ball. 0.1 is usual.")
        if not 0 <= self.momentum < math.inf:
            raise InputError(f"momentum={self.momentum} is not at least 0.")
        choices = {"criterion": CRITERIA, "schedule": ("constant", "cosine"), "norm": BALLS}
        for name, choice in choices.items():
            if getattr(self, name) not in choice:
                raise InputError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choice)}.")

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that change nothing as it is."""
        return ("criterion",) if self.targeted else ()

    @called_by_anybody
    def __call__(self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """Adversarial images, like `images`: (B, C, H, W) in [0, 1] and within epsilon.

        Args:
            model: Pixels to logits.
            images: (B, C, H, W) in [0, 1].
            labels: (B,) int64.
            seeds: One for each image, for its random starts.
            epsilon: Radius of the ball, in units of the full pixel range.
        Raises: InputError for an epsilon that is text, which `evaluate` alone reads.
        """
        worst = _Worst(images)
        first_guess = None
        if self.targeted:
            with torch.no_grad():
                first_guess = model(images)
        for restart in range(self.num_restarts):
            active = worst.unfinished(self.stop_when_fooled)
            if len(active) == 0:
                break
            targets = None if first_guess is None else likeliest_wrong_class(first_guess, labels, restart)
            self._descend(model, images, labels, restart_seeds(seeds, active, restart), epsilon, worst, active, targets)
        return worst.images

    def _descend(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        seeds: Sequence[int],
        epsilon: float,
        worst: _Worst,
        active: Tensor,
        targets: Tensor | None,
    ) -> None:
        ball = BALLS[self.norm]
        x = ball.random_start(images[active], epsilon, seeds) if self.from_random_start else images[active].clone()
        velocity = torch.zeros_like(x)
        part = for_rows(model, active)
        for step in range(self.num_steps + 1):
            rule = CRITERIA[self.criterion] if targets is None else towards(targets[active])
            if step == self.num_steps:
                with torch.no_grad():
                    worst.update(active, x, labels[active], *logits_and_values(part, x, labels[active], rule))
                return
            logits, values, gradient = ascent(part, x, labels[active], rule)
            worst.update(active, x, labels[active], logits, values)
            velocity = self.momentum * velocity + _of_length_one(gradient)
            x = ball.project(x + epsilon * self._step(step) * ball.steepest(velocity), images[active], epsilon)
            if self.stop_when_fooled:
                going = ~worst.fooled[active]
                if not going.all():
                    active, x, velocity = active[going], x[going], velocity[going]
                    part = for_rows(model, active)
                if len(active) == 0:
                    return

    def _step(self, step: int) -> float:
        share = 1.0 if self.schedule == "constant" else 1 + math.cos(math.pi * step / self.num_steps)
        return share * (usual_step_size(self.num_steps) if self.step_size is None else self.step_size)


def usual_step_size(num_steps: int, radius: float = 1.0) -> float:
    """Of a ball of this radius: so many steps can cross it, and a quarter more (Madry et al. 2018)."""
    return 2.5 * radius / num_steps


def restart_seeds(seeds: Sequence[int], active: Tensor, restart: int) -> list[int]:
    """For the random starts of the images `active`, (n,) int64, in one of an attack's restarts."""
    return [seeds[i] * RESTART_STRIDE + restart for i in active.tolist()]


def _of_length_one(gradient: Tensor) -> Tensor:
    """g / ||g||_1 for each image."""
    length = gradient.abs().flatten(1).sum(1).view(-1, *[1] * (gradient.dim() - 1))
    return torch.where(length > 0, gradient / length, gradient)


FGSM = PGD(num_steps=1, step_size=1.0, from_random_start=False)
"""The fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572)."""


class _Worst:
    """For each image the point that fools the model, else the one with the largest criterion."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._values = torch.full((len(images),), float("-inf"), device=images.device)

    def unfinished(self, stop_when_fooled: bool) -> Tensor:
        """Numbers of the images that are to be attacked on."""
        todo = ~self.fooled if stop_when_fooled else torch.ones_like(self.fooled)
        return torch.nonzero(todo)[:, 0]

    def update(self, active: Tensor, x: Tensor, labels: Tensor, logits: Tensor, values: Tensor) -> None:
        now, before = fooled(margin(logits, labels)), self.fooled[active]
        better = (now & ~before) | ((now == before) & (values > self._values[active]))
        index = active[better]
        self.images[index], self.fooled[index] = x[better], now[better]
        self._values[index] = values[better].to(self._values.dtype)
