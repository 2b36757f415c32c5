"""Checks of what the model answers: the same twice, logits, without derivatives of its own, in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_sq.evaluation.derivatives_inside import uses_derivatives
from lightning_sq.evaluation.diagnostics.situation import FEW, Diagnostic, Situation, row
from lightning_sq.ops.random_numbers import random_numbers_kept
from lightning_sq.ops.smallest import SMALLEST


def random_answers(s: Situation) -> Diagnostic:
    """Two passes over the same images."""

    @torch.no_grad()
    def difference_and_size(images: Tensor, labels: Tensor, numbers: list[int]) -> Tensor:
        first, second = s.runner.model(images), s.runner.model(images)
        return torch.stack([(first - second).abs().amax(1), first.abs().amax(1)], 1)

    difference, size = s.ask_few(difference_and_size).amax(0).tolist()
    return row(
        "largest difference between the logits of two passes, relative to their size",
        difference / max(size, SMALLEST),
        1e-4,
        "The model is random, so each verdict is one draw's: --attacks standard,rand attacks its expectation too.",
    )


def outputs_are_probabilities(s: Situation) -> Diagnostic:
    """A softmax at the end saturates, and then has no gradient."""

    @torch.no_grad()
    def looks_like_one(images: Tensor, labels: Tensor, numbers: list[int]) -> Tensor:
        out = s.runner.model(images)
        return (out >= 0).all(1) & (out <= 1).all(1) & ((out.sum(1) - 1).abs() < 1e-4)

    return row(
        "whether the outputs are probabilities instead of logits",
        float(s.ask_few(looks_like_one).all()),
        0.5,
        "A softmax that is sure has a gradient of zero. Give the logits.",
    )


def optimises_at_inference(s: Situation) -> Diagnostic:
    """A defence that takes derivatives inside its forward pass has to be attacked through them."""
    images, _ = s.batch(4)
    return row(
        "whether the forward pass takes derivatives itself",
        float(uses_derivatives(s.runner.model, images)),
        0.5,
        "The attacks here do not see through an optimisation inside the model.",
    )


def not_float32(s: Situation) -> Diagnostic:
    """Lower precision rounds small gradients to zero, also where it is hidden in a function that converts."""
    model = s.runner.model
    weights = list(model.parameters()) if isinstance(model, nn.Module) else []
    low = [weight for weight in weights if weight.is_floating_point() and weight.dtype.itemsize < 4]
    images, _ = s.batch(FEW)
    with torch.no_grad(), random_numbers_kept(s.runner.device, 0):
        logits = model(images)
    return row(
        "share of weights, or of logits, in less than float32",
        max(len(low) / max(len(weights), 1), float(_in_low_precision(logits))),
        0.0,
        "In bfloat16 a quarter of the gradients behind a quantizer vanish. Evaluate in float32.",
    )


def _in_low_precision(logits: Tensor) -> bool:
    """Whether logits have less than 32 bits, or all of them can be written in bfloat16 or float16 without loss.

    Multiples of one step, such as counts of votes, can be so too and are not meant.
    """
    if logits.dtype.itemsize < 4:
        return True
    largest = logits.abs().max().clamp(min=SMALLEST)
    for low in (torch.bfloat16, torch.float16):
        step = 2 ** largest.log2().floor() * torch.finfo(low).eps
        if torch.equal(logits.to(low).to(logits), logits) and not torch.equal((logits / step).round() * step, logits):
            return True
    return False
