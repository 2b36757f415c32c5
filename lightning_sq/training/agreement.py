"""What the processes of a run decide together, so that none goes away while the others wait for it."""

from __future__ import annotations

import time

import torch
from torch import Tensor

_waiting_since: list[float] = []


def largest_of_all(values: Tensor) -> list[int]:
    """The largest of each value over all processes, in each of them; waits for the others and for the GPU.

    One all-reduce of a few numbers. Lightning's `reduce` puts a barrier before it.
    """
    values = values.to(torch.int32)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        _waiting_since.append(time.monotonic())
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        found = values.tolist()
        _waiting_since.clear()
        return found
    return values.tolist()


def seconds_waited() -> float:
    """For how long this process has been waiting in `largest_of_all`; 0 if it is not there."""
    return time.monotonic() - _waiting_since[0] if _waiting_since else 0.0
