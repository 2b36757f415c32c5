"""Normalisation as the first layer behind the quantizer, so that every attack sees pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.ops.checks import check_floats


class Normalize(nn.Module):
    """(x - mean) / std for each channel, in float32.

    Args:
        mean: One number a channel, in pixel units ([0, 1]).
        std: The same, above 0.
    Shape: (B, C, H, W) in, the same out.
    Raises: InputError for numbers of mean and std that do not go together, for a std that is not above 0, and for
        images of integers, which would be taken for pixels in [0, 1], or of other channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        mean, std = list(mean), list(std)
        if len(mean) != len(std) or not all(0 < value < math.inf for value in std):
            raise InputError(f"mean={mean} and std={std} are not one number a channel each, with std above 0.")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):  # and no symbol of torch.fx, which has no dtype yet
            check_floats(x)
            if x.shape[-3] != len(self.mean):
                raise InputError(f"The images have {x.shape[-3]} channels, and mean and std are of {len(self.mean)}.")
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
