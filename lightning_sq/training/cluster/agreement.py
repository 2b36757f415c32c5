"""What the processes of a run decide together, so that none goes away while the others wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_of_all(values: Tensor) -> list[int]:
    """The largest of each value over all processes, in each of them; waits for the others and for the GPU.

    One all-reduce of a few numbers. Lightning's `reduce` puts a barrier before it.
    """
    values = values.to(torch.int32)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    return values.tolist()
