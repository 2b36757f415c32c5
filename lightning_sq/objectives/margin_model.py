"""Where an image's margin grows, learned from forward passes alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from lightning_sq.ops.smallest import TINY

CELL = 2
"""Pixels along a side of what the model tells apart: the neighbours of a pixel that moves the margin do so too."""
RIDGE = 0.1
"""In terms of the mean square length of a draw."""


class MarginModel:
    r"""m(v) = m_0 + <g, v> for each image: ridge regression of its margins on what the network saw, cell by cell.

    With v_i the draws less their mean, averaged over cells of 2 x 2 pixels, m_i the margins by which they are
    misclassified less theirs, and G_ij = <v_i, v_j>: g = sum_i a_i v_i, a = (n G / tr(G) + ridge I)^-1 m. Many draws in
    the same direction count once, which a sum of m_i v_i, as of evolution strategies (arXiv 1703.03864), does not know.
    """

    def __init__(self) -> None:
        self._seen: list[Tensor] = []
        self._margins: list[Tensor] = []
        self._size = (0, 0)
        self._direction: Tensor | None = None

    def update(self, seen: Tensor, margins: Tensor) -> None:
        """What the network saw of n draws of each image, (n, B, C, H, W), and their margins, (n, B)."""
        self._size = seen.shape[-2:]
        cells = avg_pool2d(seen.float().flatten(0, 1), CELL, ceil_mode=True, count_include_pad=False)
        self._seen += cells.view(*seen.shape[:3], *cells.shape[2:])
        self._margins += margins
        self._direction = None

    def keep(self, chosen: Tensor) -> None:
        """From now on only the images at these places (K,) are told of."""
        self._seen = [seen[chosen] for seen in self._seen]
        self._margins = [margins[chosen] for margins in self._margins]
        self._direction = None

    def direction(self) -> Tensor:
        """g (B, C, H, W), smooth, of root mean square 1 over the cells that the draws have moved; 0 where it is 0."""
        if self._direction is None:
            self._direction = self._found()
        return self._direction

    def _found(self) -> Tensor:
        seen, margins = torch.stack(self._seen, 1), torch.stack(self._margins, 1)
        spread = seen.amax(1) - seen.amin(1)
        draws = (seen - seen.mean(1, keepdim=True)).flatten(2)
        with torch.autocast(seen.device.type, enabled=False):
            gram = draws @ draws.mT
            size = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(TINY).view(-1, 1, 1)
            regular = gram / size + RIDGE * torch.eye(len(self._seen), device=seen.device, dtype=gram.dtype)
            # the plain one waits for the GPU, to see whether there is a solution: the ridge sees to that
            weights, _ = torch.linalg.solve_ex(regular, margins - margins.mean(1, keepdim=True))
            growth = (weights[:, None] @ draws).view_as(spread)
        of_an_image = {"dim": (1, 2, 3), "keepdim": True}
        moved = spread > spread.amax(**of_an_image) / 2
        num_moved = moved.sum(**of_an_image).clamp(min=1)
        mean_square = (growth * moved).square().sum(**of_an_image) / num_moved
        return interpolate(growth / mean_square.sqrt().clamp_min(TINY), size=self._size, mode="bilinear")
