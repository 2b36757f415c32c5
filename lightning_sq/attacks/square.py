"""Square: random search without a gradient (Andriushchenko et al. 2020, arXiv 1912.00049), in the L-inf ball.

Every image has squares of its own, as in the authors' code, and drawn from its own seed, so that its verdict does not
depend on the images beside it (in AutoAttack's code one square moves for the whole batch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lightning_sq.attacks.criteria import margin, rises
from lightning_sq.attacks.interface import Model, called_by_anybody, for_rows
from lightning_sq.errors import InputError
from lightning_sq.ops.interval import quantized_box
from lightning_sq.ops.noise import draw_for_each

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After each of these numbers of queries the area of a square is halved: the authors' schedule for 10,000 queries, as
it is for any other number, like in AutoAttack's standard version.
"""
LEFT_OUT = 0.2
"""Once more than this share of a batch is broken, it is cut down to the images that are left."""


@dataclass(frozen=True)
class Square:
    """Moves one square of pixels to a corner of the ball, and keeps it there if the margin rises.

    Args:
        num_queries: Forward passes an image.
        first_area: Of a square, as a share of the image; it shrinks by `HALVINGS`.
    """

    num_queries: int = 5000
    first_area: float = 0.8

    def __post_init__(self) -> None:
        if self.num_queries < 1 or not 0 < self.first_area <= 1:
            raise InputError(
                f"num_queries={self.num_queries} has to be at least 1, first_area={self.first_area} in (0, 1]."
            )

    @called_by_anybody
    @torch.no_grad()
    def __call__(self, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Tensor:
        """Adversarial images, like `images`; see `PGD.__call__`."""
        lower, upper = quantized_box(images, epsilon)
        stripes, signs, corners = _draw(images, seeds, self.num_queries)
        best = torch.where(stripes, upper, lower)
        best_margin = margin(model(best), labels)
        rows = torch.arange(len(images), device=images.device)
        for query in range(1, self.num_queries):
            alive = best_margin[rows] <= 0
            if not alive.any():
                break
            if query == 1 or alive.float().mean() < 1 - LEFT_OUT:
                rows = rows[alive]
                part, here = for_rows(model, rows), labels[rows]
            side = self._side(query, *images.shape[2:])
            inside = _squares(corners[rows, query], side, *images.shape[2:])
            ends = torch.where(signs[rows, query, :, None, None], upper[rows], lower[rows])
            proposal = torch.where(inside, ends, best[rows])
            value = margin(part(proposal), here)
            better = rises(value, best_margin[rows]) & (best_margin[rows] <= 0)
            best[rows[better]], best_margin[rows[better]] = proposal[better], value[better]
        return best

    def _side(self, query: int, height: int, width: int) -> int:
        area = self.first_area / 2 ** sum(query > halving for halving in HALVINGS)
        return min(max(round(math.sqrt(area * height * width)), 1), height, width)


def _draw(images: Tensor, seeds: Sequence[int], num_queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Stripes (B, C, 1, W) bool, signs (B, queries, C) bool, corners (B, queries, 2) in [0, 1); one seed an image."""
    channels, width = images.shape[1], images.shape[3]
    widths = (channels * width, num_queries * channels, num_queries * 2)

    def draw(x: Tensor, generator: Generator) -> Tensor:
        return torch.rand(sum(widths), generator=generator, device=x.device, dtype=torch.float32)

    stripes, signs, corners = draw_for_each(images, seeds, draw).split(widths, dim=1)
    return (
        (stripes > 0.5).view(-1, channels, 1, width),
        (signs > 0.5).view(-1, num_queries, channels),
        corners.view(-1, num_queries, 2),
    )


def _squares(corners: Tensor, side: int, height: int, width: int) -> Tensor:
    """(B, 1, H, W) bool: a square of `side` pixels in each image, its upper left corner drawn from (B, 2) in [0, 1)."""
    room = torch.tensor([height - side + 1, width - side + 1], device=corners.device)
    top, left = (corners * room).long().unbind(1)
    row, column = torch.arange(height, device=corners.device), torch.arange(width, device=corners.device)
    down = (row >= top[:, None]) & (row < top[:, None] + side)
    along = (column >= left[:, None]) & (column < left[:, None] + side)
    return (down[:, :, None] & along[:, None, :])[:, None]
