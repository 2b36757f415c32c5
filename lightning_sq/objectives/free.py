"""Free adversarial training: the backward pass that trains the weights pays for the attack too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.layers.soft_quantization import Backward
from lightning_sq.objectives.attacked import AttackedObjective
from lightning_sq.types import PIXEL_BOUNDS


class FreeAdversarial(AttackedObjective):
    """CE(f(x'), y) at x' = clip(x + delta), and delta <- clip(delta + eps sign(grad_x' CE), -eps, eps) by the way.

    Shafahi et al. 2019, arXiv 1904.12843, free-m: m is `data.batch_repeats`, and an epoch of m replays costs what m
    natural epochs do. delta starts at 0 and is carried on from each batch to the next, as in the paper; a batch of
    another shape, dtype or device starts it again. The gradient is taken at x', so a pixel at the edge of [0, 1] moves
    as well. delta is not in the checkpoint: a resumed run starts it at 0 again.

    One backward pass takes one derivative: that of `backward` is the weights' too, which stand behind the quantizer and
    do not feel it. A quantizer that learns would, and is refused unless `backward` is "exact".

    Args:
        epsilon: See `AttackedObjective`; the step is epsilon too.
        backward: See `AttackedObjective`.
        surrogate_sharpness: See `AttackedObjective`.
        label_smoothing: See `Objective`; of the attacked loss too, as the two are one.
        ramp_steps: See `AttackedObjective`; each replay counts.
    """

    def __init__(
        self,
        epsilon: float | str = "8/255",
        backward: Backward = "exact",
        surrogate_sharpness: float | None = None,
        label_smoothing: float = 0.0,
        ramp_steps: int = 0,
    ) -> None:
        super().__init__(epsilon, backward, surrogate_sharpness, label_smoothing, ramp_steps)
        self.delta = torch.zeros(0)

    def perturb(self, images: Tensor) -> Tensor:
        """clip(x + delta); the backward pass through it moves delta."""
        delta = self.delta
        if (delta.shape, delta.dtype, delta.device) != (images.shape, images.dtype, images.device):
            self.delta = torch.zeros_like(images)
        x = (images + self.delta).clamp(*PIXEL_BOUNDS).requires_grad_()
        x.register_hook(self._ascend)
        return x

    def _ascend(self, gradient: Tensor) -> None:
        # under a GradScaler a gradient can overflow in a step that is then skipped; a nan would stay in delta
        epsilon = self.share * self.epsilon
        moved = self.delta + epsilon * gradient.nan_to_num().sign()
        self.delta = moved.clamp(-epsilon, epsilon)

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        attacked = self.as_attacked(model)
        quantizer = None if attacked is model else attacked.quantizer
        if isinstance(quantizer, nn.Module) and list(quantizer.parameters()):
            raise InputError(
                f"backward={self.backward_mode} would train the quantizer by a derivative that is not its own. "
                "Set backward=exact, leave the quantizer fixed, or choose Adversarial."
            )
        result = super().forward(attacked, images, labels)
        self.count_batch()
        return result
