"""What the paper's objective stands in for: the loss and the l1 norm of its gradient in the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.objectives.base import (
    HALF_SCALE,
    Objective,
    computes_in_half,
    gradient_for_signs,
    running_statistics_kept,
)
from lightning_sq.types import parse_epsilon


class GradientPenalty(Objective):
    """E CE(f(x), y) + eps ||grad_x CE(f(x), y)||_1: to first order the loss at the worst point within epsilon.

    The norm is each image's own, in units of loss over the full pixel range; the mean over the batch is added. With
    batch normalisation in training mode an image has a part in the others' losses, and its gradient counts that too.

    "double_backward" differentiates the norm; it needs a model that can be differentiated twice, which fused attention
    cannot. "finite_difference" (Finlay and Oberman 2019, arXiv 1905.11468) takes d = sign(grad_x CE) as given, and

        ||grad_x CE||_1 = (CE(f(x + h d), y) - CE(f(x), y)) / h - h/2 d'Hd + ...,  H the Hessian of the loss in x,

    for one more forward and backward pass instead. Every value of x moves by h: 0.01 is 2.55 of the 255 steps of 8
    bits. The paper's h is the l2 length of the step (388 times as long for 3 x 224 x 224 values), its penalty the
    norm's square. h has to be small against 1 / sharpness of a quantizer, and large enough for the precision: bfloat16
    blurs 0.001. At h = epsilon this is training on FGSM. The two methods agree in their weight gradients for smooth
    models: ReLUs that switch between x and x + h d count in the difference, but not in the derivative of the norm.
    Dropout and stochastic depth are drawn anew in each pass, and would drown the difference.

    Args:
        epsilon: Weight of the norm, a budget in units of the full pixel range, such as 8/255.
        method: "double_backward" or "finite_difference".
        step: h, in units of the full pixel range; x + h d is not clipped to [0, 1], which would shorten the norm.
        label_smoothing: See `Objective`; in the gradient too.
    """

    def __init__(
        self,
        epsilon: float | str = "8/255",
        method: Literal["double_backward", "finite_difference"] = "double_backward",
        step: float | str = 0.01,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        if method not in ("double_backward", "finite_difference"):
            raise InputError(f"method={method!r} is not one of double_backward, finite_difference.")
        self.epsilon = parse_epsilon(epsilon)
        self.method = method
        self.step = parse_epsilon(step, name="step")
        if self.step == 0:
            raise InputError(f"step={step} is not above 0. 0.01 is usual.")

    def perturb(self, images: Tensor) -> Tensor:
        return images

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        twice = self.method == "double_backward"
        x = images.detach().requires_grad_()
        logits = model(x)
        loss = self.loss(logits, labels)
        # the loss is a mean: times B, each image's gradient is that of its own loss
        total = len(images) * loss
        if twice:
            scale = HALF_SCALE if computes_in_half(x) else 1.0
            (gradient,) = torch.autograd.grad(scale * total, x, create_graph=True)
            if scale != 1 and not gradient.isfinite().all():  # too large for float16, and so not too small without
                scale, (gradient,) = 1.0, torch.autograd.grad(total, x, create_graph=True)
            norm = gradient.float().abs().flatten(1).sum(1).mean() / scale
        else:
            direction = gradient_for_signs(total, x, retain_graph=True).sign()
            with running_statistics_kept(model):
                ahead = model(images + self.step * direction)
            norm = (self.loss(ahead, labels) - loss) / self.step
        return loss + self.epsilon * norm, logits
