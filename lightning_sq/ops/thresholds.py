"""Tables of thresholds, one for all channels (n,) or one for each (C, n): where a pixel falls, and what stands there.

Images are (..., C, H, W) where a table has channels, and of any shape where it has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.words import counted


def uniform_thresholds(num_levels: int) -> Tensor:
    """(k - 1/2) / (K-1) for k = 1..K-1, half way between the levels: (K-1,) float64."""
    return (torch.arange(num_levels - 1, dtype=torch.float64) + 0.5) / (num_levels - 1)


def smallest_gap(thresholds: Tensor) -> float:
    """The distance of the two neighbours that are nearest to each other; 1 if there is only one threshold."""
    return thresholds.diff().min().item() if thresholds.shape[-1] > 1 else 1.0


def check_channels(x: Tensor, table: Tensor) -> None:
    """Raises: InputError if `table` has channels and `x` has others."""
    if table.ndim == 2 and (x.ndim < 3 or x.shape[-3] != len(table)):
        raise InputError(
            f"There are thresholds for {counted(len(table), 'channel')}, and the images have the shape "
            f"{tuple(x.shape)}. Give images (B, C, H, W) with as many channels, or one list of thresholds for all."
        )


def count_up_to(x: Tensor, table: Tensor) -> Tensor:
    """How many numbers of its increasing `table` each pixel has reached (number <= pixel): int64, like `x`."""
    if not table.shape[-1]:
        return torch.zeros_like(x, dtype=torch.int64)
    if table.ndim == 1:
        return torch.bucketize(x.detach().contiguous(), table.detach(), right=True)
    channels = zip(x.detach().unbind(-3), table.detach().unbind(0), strict=True)
    return torch.stack([torch.bucketize(plane.contiguous(), row, right=True) for plane, row in channels], -3)


def nearest(x: Tensor, table: Tensor) -> Tensor:
    """The place in its increasing `table` of the number that is nearest to each pixel: int64, like `x`."""
    return count_up_to(x, (table[..., 1:] + table[..., :-1]) / 2)


def column(table: Tensor, k: int) -> Tensor:
    """Entry `k` of every table, in a shape that images broadcast with."""
    return table[k] if table.ndim == 1 else table[:, k, None, None]


def pick(table: Tensor, index: Tensor) -> Tensor:
    """For each pixel the entry `index` of its channel's table: like `index`."""
    if table.ndim == 1:
        return table[index]
    rows = torch.arange(len(table), device=table.device)[:, None, None]
    return table[rows, index]
