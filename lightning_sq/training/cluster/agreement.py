"""What the processes of a run decide together, so that none goes away while the others wait for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def in_process_group() -> bool:
    """Whether there is one, of this process alone perhaps."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def largest_of_all(values: Tensor) -> list[int]:
    """The largest of each value over all processes, in each of them; waits for the others and for the GPU.

    One all-reduce of a few numbers. Lightning's `reduce` puts a barrier before it.
    """
    values = values.to(torch.int32)
    if in_process_group():
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    return values.tolist()


def from_every_rank(value: Any, world_size: int) -> list[Any]:
    """`value` of each rank, in order. All ranks have to come here."""
    if world_size == 1:
        return [value]
    values = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values
