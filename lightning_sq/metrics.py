"""What is measured of a model on a batch, besides its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def input_gradient_l1(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """||grad_x CE(f(x), y)||_1 of each image: the quantity that the method is meant to shrink.

    To first order an attacker with budget epsilon gains epsilon times this. A small value is no proof of robustness:
    a sharp quantizer makes it small by hiding the gradient.

    Args:
        model: Pixels to logits.
        images: (B, C, H, W) in [0, 1].
        labels: (B,) int64.
    Returns: (B,) float32, in units of loss over the full pixel range; computed in float32 even under autocast.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        x = images.detach().clone().float().requires_grad_()
        loss = cross_entropy(model(x), labels.clone(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient.abs().flatten(1).sum(1)


@contextmanager
def batches_of_any_size() -> Iterator[None]:
    """Inside, cuDNN times no kernels, as `--trainer.benchmark true` has it do for each new size of a batch: an attack
    that goes on with what is not fooled yet has many.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def one_of_every(count: int, indices: Tensor) -> Tensor:
    """Which of `indices` are the chosen one of `count` that follow each other; which one that is looks random.

    With the first of each, processes that take turns would leave all of them to one where their number divides `count`.
    """
    block = indices // count
    chosen = (block * 2_654_435_761 % 2**32) * count // 2**32  # Knuth's multiplicative hash
    return indices % count == chosen
