"""The processes of one launch: who this is, and what all of them know together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed


def together() -> bool:
    """Whether a process group of more than one process is there (Lightning, torchrun or srun made it)."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """Of this process, over all nodes; 0 where there is only one."""
    return torch.distributed.get_rank() if together() else 0


def world_size() -> int:
    """Number of processes."""
    return torch.distributed.get_world_size() if together() else 1


def gather(value: Any) -> list[Any]:
    """`value` of every process, by rank, in every process. Plain values only."""
    if not together():
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for the others."""
    if together():
        torch.distributed.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """Process 0 goes first, and the others find what it left in a cache."""
    if rank() != 0:
        barrier()
    try:
        yield
    finally:  # else the others would wait for a process that has stopped
        if rank() == 0:
            barrier()
