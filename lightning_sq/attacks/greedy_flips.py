"""Greedy flips: a search among the corners of the L-inf ball, which is where a two-level quantizer's images are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_sq.attacks.criteria import margin, rises
from lightning_sq.attacks.gradients import input_gradient
from lightning_sq.attacks.interface import Model, called_by_anybody, for_rows
from lightning_sq.attacks.pgd import restart_seeds
from lightning_sq.errors import InputError
from lightning_sq.ops.interval import quantized_box
from lightning_sq.ops.linf_ball import random_start


@dataclass(frozen=True)
class GreedyFlips:
    """Moves those pixels to an end of the ball that promise most, as many at once as still raise the margin.

    To first order pixel i gains max(g_i (h_i - x_i), g_i (l_i - x_i)) with l, h the ends of its ball. The `share` of
    pixels that promise most is moved; if the margin did not rise, half as many are tried in the next round.

    Args:
        num_rounds: One gradient each.
        share: Of the pixels, moved in the first round.
        num_restarts: Starts: the image, then random points of the ball.
    """

    num_rounds: int = 60
    share: float = 0.2
    num_restarts: int = 1

    def __post_init__(self) -> None:
        if self.num_rounds < 1 or self.num_restarts < 1 or not 0 < self.share <= 1:
            raise InputError(
                f"num_rounds={self.num_rounds} and num_restarts={self.num_restarts} have to be at least 1, "
                f"share={self.share} above 0 and at most 1."
            )

    @called_by_anybody
    def __call__(self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """Adversarial images, like `images`; see `PGD.__call__`. L-inf only."""
        best = images.clone()
        with torch.no_grad():
            best_margin = margin(model(images), labels)
        for restart in range(self.num_restarts):
            active = torch.nonzero(best_margin <= 0)[:, 0]
            if len(active) == 0:
                break
            starts = images[active]
            if restart:
                starts = random_start(starts, epsilon, restart_seeds(seeds, active, restart))
            found, value = self._climb(for_rows(model, active), starts, images[active], labels[active], epsilon)
            better = rises(value, best_margin[active])
            best[active[better]], best_margin[active[better]] = found[better], value[better]
        return best

    def _climb(self, model: Model, x: Tensor, images: Tensor, labels: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        lower, upper = quantized_box(images, epsilon)
        count = torch.full((len(x),), max(1, round(self.share * x[0].numel())), device=x.device)
        value, gradient = _margin_and_gradient(model, x, labels)
        for _ in range(self.num_rounds):
            proposal = _move(x, gradient, lower, upper, count)
            new_value, new_gradient = _margin_and_gradient(model, proposal, labels)
            better = rises(new_value, value)
            keep = better.view(-1, *[1] * (x.dim() - 1))
            x, gradient = torch.where(keep, proposal, x), torch.where(keep, new_gradient, gradient)
            value = torch.where(better, new_value, value)
            count = torch.where(better, count, (count // 2).clamp(min=1))
        return x, value


def _move(x: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor, count: Tensor) -> Tensor:
    """`count` pixels of each image at the end that promises more, the others as they are."""
    ends = torch.where(gradient > 0, upper, lower)
    promise = (gradient * (ends - x)).flatten(1)
    rank = promise.argsort(dim=1, descending=True).argsort(dim=1)
    moved = (rank < count[:, None]) & (promise > 0)
    return torch.where(moved.view_as(x), ends, x)


def _margin_and_gradient(model: Model, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = margin(model(x), labels)
    return values.detach(), input_gradient(values, x)
