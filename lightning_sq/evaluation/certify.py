"""The lower bound: images that interval bounds prove."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_sq.attacks.front_end import Quantized
from lightning_sq.errors import InputError
from lightning_sq.evaluation.runner import StageRunner
from lightning_sq.layers.interval_network import interval_margins
from lightning_sq.ops.interval import quantized_box


@torch.no_grad()
def certify(runner: StageRunner, apart: Quantized | None, epsilon: float) -> Tensor | None:
    """(N,) bool on the CPU: no image within `epsilon` (L-inf) is given another label, by interval bound propagation.

    Args:
        runner: With the images and the model.
        apart: The model's parts, if it has a quantizer: then the bounds start behind it, from the quantized box.
        epsilon: Radius in units of the full pixel range.
    Returns: None where the network cannot be bounded: it is no nn.Module, or has an operation without a rule.
    """
    network = runner.model if apart is None else apart.network
    if not isinstance(network, nn.Module):
        return None
    quantizer = None if apart is None else apart.quantizer

    def proven(images: Tensor, labels: Tensor) -> Tensor:
        margins = interval_margins(network, quantized_box(images, epsilon, quantizer), labels)
        return margins.scatter(1, labels[:, None], float("-inf")).amax(1) < 0

    try:
        proven(runner.images[:1].to(runner.device), runner.labels[:1].to(runner.device))
    except InputError:
        return None
    return runner.ask(lambda images, labels, _: proven(images, labels))
