"""The lower bound: images that interval bounds prove; and which networks can be proven anything about."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_sq.attacks.front_end import Quantized
from lightning_sq.evaluation.runner import StageRunner
from lightning_sq.ops.interval import quantized_box
from lightning_sq.verification.integer_program import piecewise_linear_chain
from lightning_sq.verification.interval_network import certified, interval_forward
from lightning_sq.verification.tracing import forget_graph

PASSES = 4
SAME = 1e-3
"""Two ways to compute the same logits in float32 differ by less, in terms of the largest; two networks by more."""


def has_bounds(apart: Quantized, images: Tensor) -> bool:
    """Whether the network can be bounded: it is an nn.Module, interval bounds have a rule for all its operations, and
    around single points they are what it says of these, asked `PASSES` times: or it is random, in a way that tracing
    does not see.

    It is traced anew, and once: whatever its forward method reads is as now in all that is proven of it afterwards.

    Args:
        apart: The model's parts.
        images: (B, C, H, W), on its device.
    """
    if not isinstance(apart.network, nn.Module):
        return False
    forget_graph(apart.network)
    try:
        with torch.no_grad():
            points = quantized_box(images, 0.0, apart.quantizer)
            bounds = interval_forward(apart.network, points).centre
            answers = [apart.network(points.lower.clone()) for _ in range(PASSES)]
    except Exception:  # what runs a network on boxes instead of tensors can fail in any way
        return False
    return all(torch.allclose(bounds, one, rtol=SAME, atol=SAME * float(bounds.abs().max())) for one in answers)


def has_program(apart: Quantized) -> bool:
    """Whether an integer program can be made of the network: it is a chain of layers that are linear or ReLU."""
    try:
        return isinstance(apart.network, nn.Module) and bool(piecewise_linear_chain(apart.network))
    except Exception:  # as above
        return False


def certify(runner: StageRunner, apart: Quantized, epsilon: float) -> Tensor:
    """(N,) bool on the CPU: no image within `epsilon` (L-inf) is given another label, by interval bound propagation.

    Args:
        runner: With the images.
        apart: The model's parts, which `has_bounds`: these start behind the quantizer, from the quantized box.
        epsilon: Radius in units of the full pixel range.
    """
    return runner.ask(lambda images, labels, _: certified(apart.network, images, labels, epsilon, apart.quantizer))
