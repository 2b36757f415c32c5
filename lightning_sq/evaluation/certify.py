"""The lower bound: images that interval bounds prove; and which networks can be proven anything about."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_sq.attacks.front_end import Quantized
from lightning_sq.errors import InputError
from lightning_sq.evaluation.runner import Model, StageRunner
from lightning_sq.layers.integer_program import piecewise_linear_chain
from lightning_sq.layers.interval_network import interval_forward, interval_margins
from lightning_sq.ops.interval import quantized_box


def has_bounds(model: Model, apart: Quantized | None, images: Tensor) -> bool:
    """Whether the network can be bounded: it is an nn.Module, and interval bounds have a rule for all its operations.

    Args:
        model: Pixels to logits.
        apart: Its parts, if it has a quantizer.
        images: (B, C, H, W), on its device.
    """
    network = model if apart is None else apart.network
    if not isinstance(network, nn.Module):
        return False
    quantizer = None if apart is None else apart.quantizer
    try:
        with torch.no_grad():
            interval_forward(network, quantized_box(images[:1], 0.0, quantizer))
    except InputError:
        return False
    return True


def has_program(model: Model, apart: Quantized | None) -> bool:
    """Whether an integer program can be made of the network: it is a chain of layers that are linear or ReLU."""
    network = model if apart is None else apart.network
    try:
        return isinstance(network, nn.Module) and bool(piecewise_linear_chain(network))
    except InputError:
        return False


@torch.no_grad()
def certify(runner: StageRunner, apart: Quantized | None, epsilon: float) -> Tensor:
    """(N,) bool on the CPU: no image within `epsilon` (L-inf) is given another label, by interval bound propagation.

    Args:
        runner: With the images and the model, which `has_bounds`.
        apart: The model's parts, if it has a quantizer: then the bounds start behind it, from the quantized box.
        epsilon: Radius in units of the full pixel range.
    """
    network = runner.model if apart is None else apart.network
    quantizer = None if apart is None else apart.quantizer

    def proven(images: Tensor, labels: Tensor) -> Tensor:
        margins = interval_margins(network, quantized_box(images, epsilon, quantizer), labels)
        return margins.scatter(1, labels[:, None], float("-inf")).amax(1) < 0

    return runner.ask(lambda images, labels, _: proven(images, labels))
