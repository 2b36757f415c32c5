"""SGD with momentum or AdamW, weight decay on weights alone, linear warm-up, cosine or linear decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim.lr_scheduler import LambdaLR

from lightning_sq.errors import InputError

Decay = Literal["cosine", "linear"]


@dataclass
class Optimization:
    """How the weights follow the gradient.

    Args:
        base_learning_rate: Peak, for a global batch of 256 images; scaled linearly with the global batch
            (Goyal et al. 2017, arXiv 1706.02677).
        momentum: Nesterov, in [0, 1); of AdamW it is the first beta.
        weight_decay: On weights of convolutions and linear layers only.
        warmup_epochs: Linear rise from 0; may be a fraction.
        optimizer: "sgd", or "adamw" (Loshchilov and Hutter 2019, arXiv 1711.05101), for which 0.001 is a usual rate.
        decay: Way to 0 after the warm-up: along a half "cosine" (arXiv 1608.03983), or "linear", which is sooner low.
    """

    base_learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 1.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    decay: Decay = "cosine"

    def __post_init__(self) -> None:
        if not 0 < self.base_learning_rate < math.inf:
            raise InputError(f"base_learning_rate={self.base_learning_rate} is not above 0. 0.1 is usual for SGD.")
        for name in ("momentum", "weight_decay", "warmup_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} is not at least 0. 0 switches it off.")
        if self.momentum >= 1:
            raise InputError(f"momentum={self.momentum} is not below 1. 0.9 is usual.")
        if self.optimizer not in ("sgd", "adamw"):
            raise InputError(f"There is no optimizer {self.optimizer!r} here. Write sgd or adamw.")
        if self.decay not in get_args(Decay):
            raise InputError(f"decay={self.decay!r} is not one of {', '.join(get_args(Decay))}.")

    def learning_rate(self, global_batch_size: int) -> float:
        """The peak for so many images a step."""
        return self.base_learning_rate * global_batch_size / 256


def make_optimizer(
    model: nn.Module, optimization: Optimization, *, global_batch_size: int, objective: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Over two groups: weights, which decay, and what does not: norms, biases, tokens and embeddings of places, and
    what a quantizer or the objective learns.
    """
    weights = {id(layer.weight) for layer in model.modules() if isinstance(layer, (nn.Linear, _ConvNd))}
    learnt = [p for p in model.parameters() if p.requires_grad]
    decaying = [p for p in learnt if id(p) in weights]
    free = [p for p in learnt if id(p) not in weights]
    known = {id(p) for p in model.parameters()}  # an objective may hold the model, or a part of it
    others = () if objective is None else objective.parameters()
    free += [p for p in others if p.requires_grad and id(p) not in known]
    groups = [
        {"params": decaying, "weight_decay": optimization.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    rate = optimization.learning_rate(global_batch_size)
    if optimization.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(optimization.momentum, 0.999))
    return torch.optim.SGD(groups, lr=rate, momentum=optimization.momentum, nesterov=optimization.momentum > 0)


def warmup_decay(step: float, *, warmup_steps: int, total_steps: int, decay: Decay = "cosine") -> float:
    """Factor on the peak learning rate for the optimizer step with number `step`, counted from 0.

    Rises linearly to 1 over the first `warmup_steps`, then falls to 0 at `total_steps`.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1 - progress if decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def make_schedule(
    optimizer: torch.optim.Optimizer,
    *,
    warmup_steps: int,
    total_steps: int,
    decay: Decay = "cosine",
    position: Callable[[int], float] = float,
) -> LambdaLR:
    """`warmup_decay` as a torch scheduler, stepped once an optimizer step.

    `position` says where in the schedule the step with a number is, for a run that has no time for all of it.
    """
    form = {"warmup_steps": warmup_steps, "total_steps": total_steps, "decay": decay}
    return LambdaLR(optimizer, lambda step: warmup_decay(position(step), **form))
