"""Adversarial training behind the quantizer, where it hides nothing from the attack."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor

from lightning_sq.attacks.front_end import Quantized, parts_of
from lightning_sq.attacks.pgd import usual_step_size
from lightning_sq.attacks.quantized_box import InsideBox
from lightning_sq.errors import InputError
from lightning_sq.layers import PixelNoise
from lightning_sq.objectives.attacked import SteppingObjective, TrainingCriterion
from lightning_sq.objectives.base import running_statistics_kept


class BoxAdversarial(SteppingObjective):
    r"""E max CE(g(z), y) over z in [Q(clip(x - eps)), Q(clip(x + eps))], by PGD, for a model g(Q(x)).

    Q takes the ball onto that box (see `attacks.QuantizedBox`), so this is adversarial training as in `Adversarial`,
    but no staircase stands between the attack and the gradient. Most pixels of an image that is far from the
    thresholds do not move at all, and those that do move from one level to another: a few steps go far. The random
    start is uniform in the box. No pixels are looked for that lead to z; what is trained are the weights and, where
    they are learned, thresholds and sharpness, by the ends of the box.

    Needs a quantizer. For the running statistics of batch norm see `Adversarial`.

    Args:
        epsilon: See `AttackedObjective`.
        num_steps: See `SteppingObjective`.
        step_size: Length of a step in widths of the box, pixel by pixel; None is 2.5 / num_steps.
        criterion: See `SteppingObjective`.
        label_smoothing: See `SteppingObjective`.
        ramp_steps: See `AttackedObjective`; the step is of the box as it is.
    """

    def __init__(
        self,
        epsilon: float | str = "8/255",
        num_steps: int = 4,
        step_size: float | None = None,
        criterion: TrainingCriterion = "cross_entropy",
        label_smoothing: float = 0.0,
        ramp_steps: int = 0,
    ) -> None:
        super().__init__(epsilon, num_steps, criterion, label_smoothing=label_smoothing, ramp_steps=ramp_steps)
        self.step_size = usual_step_size(num_steps) if step_size is None else step_size
        if not (isinstance(self.step_size, Real) and self.step_size > 0):
            raise InputError(
                f"step_size={step_size!r} is no number above 0, in widths of the box. 2.5 / num_steps is usual."
            )
        self.start = PixelNoise("uniform", 1.0)

    def forward(self, model: Quantized, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Objective.forward`. Raises: InputError for a model without a quantizer."""
        if parts_of(model)[0] is None:
            raise InputError("BoxAdversarial needs a quantizer. Give model.quantizer, or take Adversarial.")
        inside = InsideBox.around(model, images, self.share * self.epsilon)
        with torch.enable_grad(), running_statistics_kept(model):
            t = self.attack(inside, labels)
        logits = inside(t)
        self.count_batch()
        return self.loss(logits, labels), logits

    def attack(self, inside: InsideBox, labels: Tensor) -> Tensor:
        """The last iterate: each pixel's place between the lower end of its box, 0, and the upper, 1."""
        attacked = replace(inside, lower=inside.lower.detach(), width=inside.width.detach())
        t = (self.start.draw(attacked.lower) + 1) / 2
        for _ in range(self.num_steps):
            t = (t + self.step_size * self.gradient(attacked, t, labels).sign()).clamp(0, 1)
        return t
