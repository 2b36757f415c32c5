"""The gradient that an attack follows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_sq.attacks.criteria import Criterion
from lightning_sq.attacks.draws import OverDraws


def input_gradient(values: Tensor, x: Tensor) -> Tensor:
    """The gradient of each value (B,) by its image: 0 where it is not a number, or where the model gives none.

    That hides nothing: `evaluation.diagnostics` counts such pixels.
    """
    if not values.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(values, x, torch.ones_like(values), allow_unused=True, materialize_grads=True)
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def ascent(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, criterion: Criterion
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, classes), the criterion (B,) and its gradient by the images; of an `OverDraws` their means.

    So the gradient is the mean of the draws' gradients, as expectation over transformation has it (Athalye et al. 2018,
    arXiv 1707.07397) and version `rand` of AutoAttack. One draw is differentiated at a time: the graphs of all at once
    would be as much larger.
    """
    if not isinstance(model, OverDraws):
        with torch.enable_grad():
            x = images.detach().requires_grad_()
            logits = model(x)
            values = criterion(logits, labels)
        return logits.detach(), values.detach(), input_gradient(values, x)
    draws = (ascent(model.model, images, labels, criterion) for _ in range(model.num_draws))
    return tuple(sum(parts) / model.num_draws for parts in zip(*draws, strict=True))
