"""What objectives with an attack inside have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor

from lightning_sq.attacks import with_bpda
from lightning_sq.attacks.bpda import check_backward
from lightning_sq.attacks.criteria import CRITERIA
from lightning_sq.errors import InputError
from lightning_sq.layers import PixelNoise
from lightning_sq.layers.soft_quantization import Backward
from lightning_sq.objectives.base import gradient_for_signs
from lightning_sq.objectives.ramped import RampedObjective
from lightning_sq.types import parse_epsilon

TrainingCriterion = Literal["cross_entropy", "margin"]
"""Of those in `attacks.criteria` what an attack inside an objective may maximise: both go for two classes too."""


class AttackedObjective(RampedObjective):
    """An objective with an attack inside: the budget, and the derivative that the attack takes of the quantizer.

    Args:
        epsilon: Radius of the L-inf ball, in units of the full pixel range, such as 8/255.
        backward: "exact" (behind a hard quantizer 0, and so no attack), or BPDA by "identity" or "surrogate".
        surrogate_sharpness: Of the softer staircase of "surrogate"; None leaves the quantizer's.
        label_smoothing: See `Objective`.
        ramp_steps: Training batches over which ball and step grow linearly from nothing. At large budgets (0.3 on
            MNIST) a network that is attacked in full from the first step learns nothing for thousands of steps.
    """

    def __init__(
        self,
        epsilon: float | str = "8/255",
        backward: Backward = "exact",
        surrogate_sharpness: float | None = None,
        label_smoothing: float = 0.0,
        ramp_steps: int = 0,
    ) -> None:
        super().__init__(ramp_steps, ramp_start=-1, label_smoothing=label_smoothing)  # the first batch is attacked too
        if ramp_steps < 0:
            raise InputError(f"ramp_steps={ramp_steps} is negative. 0 switches it off.")
        check_backward(backward, surrogate_sharpness)
        self.epsilon = parse_epsilon(epsilon)
        self.backward_mode = backward
        self.surrogate_sharpness = surrogate_sharpness

    def as_attacked(self, model: Any) -> Any:
        """The model with the derivative that the attack takes of its quantizer; weights and values are the same."""
        if self.backward_mode == "exact":
            return model
        return with_bpda(model, self.backward_mode, self.surrogate_sharpness)


class SteppingObjective(AttackedObjective):
    """An attacked objective whose attack takes gradient steps from a random start.

    Args:
        epsilon: See `AttackedObjective`.
        num_steps: Gradient steps, each as dear as a forward and a backward pass.
        criterion: What the attack maximises, "cross_entropy" (of the hard labels) or "margin".
        backward: See `AttackedObjective`.
        surrogate_sharpness: See `AttackedObjective`.
        label_smoothing: See `Objective`; of the trained loss alone.
        ramp_steps: See `AttackedObjective`.
    """

    start: PixelNoise

    def __init__(
        self,
        epsilon: float | str,
        num_steps: int,
        criterion: TrainingCriterion = "cross_entropy",
        backward: Backward = "exact",
        surrogate_sharpness: float | None = None,
        label_smoothing: float = 0.0,
        ramp_steps: int = 0,
    ) -> None:
        super().__init__(epsilon, backward, surrogate_sharpness, label_smoothing, ramp_steps)
        if num_steps < 1:
            raise InputError(f"num_steps={num_steps} is not at least 1. 10 is usual.")
        if criterion not in get_args(TrainingCriterion):
            raise InputError(f"criterion={criterion!r} is not one of {', '.join(get_args(TrainingCriterion))}.")
        self.num_steps = num_steps
        self.criterion = criterion

    @property
    def stream(self) -> PixelNoise:
        return self.start

    def gradient(self, model: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor) -> Tensor:
        """Of the summed criterion with respect to x, as `gradient_for_signs` gives it."""
        x = x.detach().requires_grad_()
        return gradient_for_signs(CRITERIA[self.criterion](model(x), labels).sum(), x)
