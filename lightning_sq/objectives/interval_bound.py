"""Interval bound propagation: what is minimised is a bound on the loss at every image of the ball."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sq.errors import InputError
from lightning_sq.objectives.base import running_statistics_kept
from lightning_sq.objectives.ramped import RampedObjective
from lightning_sq.ops.interval import quantized_box
from lightning_sq.types import parse_epsilon
from lightning_sq.verification.interval_network import interval_margins


class IntervalBound(RampedObjective):
    r"""kappa CE(f(x), y) + (1 - kappa) max CE(z, y), z in the interval bounds of f over the ball of radius epsilon.

    From Gowal et al. 2018 (arXiv 1810.12715), for a network of the operations in `verification/interval_network`.
    Natural samples alone, no gradient with respect to the input; a step costs about four natural ones
    (`benchmarks/objectives.py`), less where the bound alone counts. During `warmup_steps` epsilon is 0 and kappa is
    `first_kappa`; over the `ramp_steps` after them both move linearly to their values.

    In the bound dropout is off, and batch norm goes by the mean and variance of the boxes' centres over the batch,
    which its running statistics follow (Shi et al. 2021, arXiv 2103.17268, take those of the natural images). Meant
    for networks of few layers (`box_cnn`): in deep ones the bounds grow with every layer and soon say nothing.

    Args:
        epsilon: Radius of the L-inf ball in units of the full pixel range, such as 8/255.
        kappa: Final weight of the natural cross-entropy, in [0, 1].
        first_kappa: Its weight before the ramp. If both are 0 no natural pass is made.
        warmup_steps: Training batches before the ramp; this and the next are as for MNIST in the authors' code.
        ramp_steps: Training batches of the ramp, at least 1.
        label_smoothing: See `Objective`; of the natural cross-entropy alone, because only the plain one is bounded.
    """

    def __init__(
        self,
        epsilon: float | str = "8/255",
        kappa: float = 0.5,
        first_kappa: float = 1.0,
        warmup_steps: int = 2000,
        ramp_steps: int = 10000,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(ramp_steps, ramp_start=warmup_steps, label_smoothing=label_smoothing)
        for name, value in {"kappa": kappa, "first_kappa": first_kappa}.items():
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name}={value} is not in [0, 1]. 0.5 is usual, 0 is the bound alone.")
        if warmup_steps < 0 or ramp_steps < 1:
            raise InputError(
                f"warmup_steps={warmup_steps} has to be at least 0 and ramp_steps={ramp_steps} at least 1."
            )
        self.epsilon = parse_epsilon(epsilon)
        self.kappa = kappa
        self.first_kappa = first_kappa

    def schedule(self) -> tuple[Tensor, Tensor]:
        """(epsilon, kappa) of the next training batch, on the device so that no step waits for it."""
        share = self.share
        return self.epsilon * share, self.first_kappa + (self.kappa - self.first_kappa) * share

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Objective.forward`. In training mode it counts a batch.

        Returns: The loss, and the logits of the natural images; the margins where only the bound counts, so that what
            is told of them is what is proven.
        """
        epsilon, kappa = self.schedule()
        box = quantized_box(images, epsilon)
        margins = interval_margins(model, box, labels, by_batch_statistics=self.training)
        loss, logits = (1 - kappa) * cross_entropy(margins, labels), margins
        if max(self.kappa, self.first_kappa) > 0:
            with running_statistics_kept(model):
                logits = model(images)
            loss = loss + kappa * self.loss(logits, labels)
        self.count_batch()
        return loss, logits

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon:.6g}, kappa={self.kappa:g}"
