"""Where an image's margin grows, learned from forward passes alone."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sq.ops.noise import blurred

TINY = torch.finfo(torch.float32).tiny
RIDGE = 0.02
"""In terms of the mean square length of a draw: little, for forward passes are exact."""


class MarginModel:
    r"""m(v) = m_0 + <g, v> for each image: ridge regression of its margins on what the network saw.

    With v_i the draws less their mean, m_i the margins by which they are misclassified less theirs, and G_ij = <v_i,
    v_j>: g = sum_i a_i v_i, a = (n G / tr(G) + ridge I)^-1 m. Many draws in the same direction count once, which a sum
    of m_i v_i, as of evolution strategies (arXiv 1703.03864), does not know.

    Args:
        images: Those that the draws belong to, (B, C, H, W).
        num_draws: At most so many will be told.
    """

    def __init__(self, images: Tensor, num_draws: int) -> None:
        self._shape, self._count = images.shape, 0
        self._seen = images.new_empty((len(images), num_draws, images[0].numel()), dtype=torch.float32)
        self._margins = images.new_empty((len(images), num_draws), dtype=torch.float32)
        self._products = images.new_empty((len(images), num_draws, num_draws), dtype=torch.float32)
        self._first = self._low = self._high = images

    def update(self, seen: Tensor, margins: Tensor) -> None:
        """What the network saw of a draw, (B, C, H, W), and its margins, (B,)."""
        k, seen = self._count, seen.float()
        if k == 0:
            self._first = self._low = self._high = seen
        self._low, self._high = self._low.minimum(seen), self._high.maximum(seen)
        self._seen[:, k], self._margins[:, k] = (seen - self._first).flatten(1), margins
        self._count = k + 1
        with torch.autocast(seen.device.type, enabled=False):
            products = (self._seen[:, : k + 1] @ self._seen[:, k, :, None])[..., 0]
        self._products[:, k, : k + 1] = self._products[:, : k + 1, k] = products

    def direction(self) -> Tensor:
        """g (B, C, H, W), blurred, of root mean square 1 over the pixels that the draws have moved; 0 where it is 0."""
        n = self._count
        with torch.autocast(self._seen.device.type, enabled=False):
            identity = torch.eye(n, device=self._seen.device)
            less_the_mean = identity - 1 / n
            gram = less_the_mean @ self._products[:, :n, :n] @ less_the_mean
            size = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(TINY).view(-1, 1, 1)
            weights = torch.linalg.solve(gram / size + RIDGE * identity, self._margins[:, :n] @ less_the_mean)
            growth = (weights @ less_the_mean)[:, None] @ self._seen[:, :n]
            growth = blurred(growth.view(self._shape))
        of_an_image = {"dim": (1, 2, 3), "keepdim": True}
        spread = self._high - self._low
        moved = spread > spread.amax(**of_an_image) / 2
        num_moved = moved.sum(**of_an_image).clamp(min=1)
        mean_square = (growth * moved).square().sum(**of_an_image) / num_moved
        return growth / mean_square.sqrt().clamp_min(TINY)
