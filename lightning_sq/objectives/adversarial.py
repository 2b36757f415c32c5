"""Adversarial training: the loss at the images that an attack makes anew in every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_sq.attacks.pgd import usual_step_size
from lightning_sq.errors import InputError
from lightning_sq.layers import PixelNoise
from lightning_sq.layers.soft_quantization import Backward
from lightning_sq.objectives.attacked import SteppingObjective, TrainingCriterion
from lightning_sq.objectives.base import running_statistics_kept
from lightning_sq.ops.linf_ball import project
from lightning_sq.types import parse_epsilon


class Adversarial(SteppingObjective):
    """E max CE(f(x'), y) over |x' - x| <= eps, by PGD from a random start (Madry et al. 2018, arXiv 1706.06083).

    Trained on the last iterate, as in the paper; `attacks.PGD` keeps the worst one, for one forward pass more. The
    model is attacked in the mode in which it is trained, as in the authors' code, so batch normalisation goes by the
    batch, but its running statistics see the last iterate alone, where that code lets every iterate in. The attack
    leaves no parameter's `grad` behind, and what is trained is the model itself, whatever derivative the attack takes.

    Args:
        epsilon: See `AttackedObjective`.
        num_steps: See `SteppingObjective`.
        step_size: Length of a step, in units of the full pixel range; None is 2.5 epsilon / num_steps.
        criterion: See `SteppingObjective`.
        backward: See `AttackedObjective`.
        surrogate_sharpness: See `AttackedObjective`.
        label_smoothing: See `SteppingObjective`.
        ramp_steps: See `AttackedObjective`.
    """

    def __init__(
        self,
        epsilon: float | str = "8/255",
        num_steps: int = 10,
        step_size: float | str | None = None,
        criterion: TrainingCriterion = "cross_entropy",
        backward: Backward = "exact",
        surrogate_sharpness: float | None = None,
        label_smoothing: float = 0.0,
        ramp_steps: int = 0,
    ) -> None:
        super().__init__(epsilon, num_steps, criterion, backward, surrogate_sharpness, label_smoothing, ramp_steps)
        usual = usual_step_size(num_steps, self.epsilon)
        self.step_size = usual if step_size is None else parse_epsilon(step_size, name="step_size")
        if self.step_size == 0 and step_size is not None:
            raise InputError(f"step_size={step_size} is not above 0. 2.5 epsilon / num_steps is usual.")
        self.start = PixelNoise("uniform", self.epsilon)

    def attack(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """The last iterate, like `images`: (B, C, H, W) in [0, 1] and within epsilon, or as far as the ramp is."""
        share = self.share
        model, x = self.as_attacked(model), images + share * (self.start(images) - images)
        with torch.enable_grad(), running_statistics_kept(model):
            for _ in range(self.num_steps):
                step = share * self.step_size * self.gradient(model, x, labels).sign()
                x = project(x + step, images, share * self.epsilon)
        return x

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(self.attack(model, images, labels))
        self.count_batch()
        return self.loss(logits, labels), logits


class FGSMRS(Adversarial):
    """Fast adversarial training: one step from a random start (Wong et al. 2020, arXiv 2001.03994).

    About twice the price of natural training. The model can learn to resist this one step and nothing else, from one
    epoch to the next (the paper's "catastrophic overfitting"): watch it with an attack of more steps.

    The random start is not clipped to [0, 1] before the step, as in the authors' code for MNIST (theirs for CIFAR-10
    and ImageNet clips it): clipped, every black pixel that goes up would end at epsilon itself, whatever the start, and
    the start would be none. (On MNIST at 0.3 the model then learns to resist that one step within two epochs.)

    Args:
        epsilon: See `AttackedObjective`.
        step_size: Length of the step, in units of the full pixel range; None is the paper's 1.25 epsilon.
        backward: See `AttackedObjective`.
        surrogate_sharpness: See `AttackedObjective`.
        label_smoothing: See `Objective`.
        ramp_steps: See `AttackedObjective`.
    """

    def __init__(
        self,
        epsilon: float | str = "8/255",
        step_size: float | str | None = None,
        backward: Backward = "exact",
        surrogate_sharpness: float | None = None,
        label_smoothing: float = 0.0,
        ramp_steps: int = 0,
    ) -> None:
        super().__init__(
            epsilon, 1, step_size, "cross_entropy", backward, surrogate_sharpness, label_smoothing, ramp_steps
        )
        if step_size is None:
            self.step_size = 1.25 * self.epsilon

    def attack(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """See `Adversarial.attack`."""
        share = self.share
        model, start = self.as_attacked(model), share * self.start.draw(images)
        with torch.enable_grad(), running_statistics_kept(model):
            step = share * self.step_size * self.gradient(model, images + start, labels).sign()
        return project(images + start + step, images, share * self.epsilon)
