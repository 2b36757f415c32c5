"""A value with the derivative of something else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ReplaceBackward(torch.autograd.Function):
    generate_vmap_rule = True  # with `setup_context` what torch.func asks for: grad, vmap, jacrev

    @staticmethod
    def forward(value: Tensor, proxy: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is kept: the gradient goes on as it is."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def replace_backward(value: Tensor, proxy: Tensor) -> Tensor:
    """`value` in the forward pass, bit for bit; the derivative of `proxy` in the backward pass.

    This is BPDA (Athalye et al. 2018, arXiv 1802.00420) with any differentiable proxy, and the straight-through
    estimator with the identity.
    """
    return _ReplaceBackward.apply(value.detach(), proxy)
