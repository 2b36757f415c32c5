"""Waiting for the other processes of an evaluation, as long as the slowest takes, and noticing one that has gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed
from torch.distributed import ProcessGroup

from lightning_sq.process_group import all_there, gather_objects, in_process_group, rank

LONGEST_WAIT = timedelta(days=30)
"""For the slowest process: its share of a solver's work may take hours."""


def gather(value: Any) -> list[Any]:
    """`value` of every process, by rank, in every process. Plain values only.

    Raises: ProcessLostError if another process has ended before its time.
    """
    if not in_process_group():
        return [value]
    with all_there():
        return gather_objects(value, _patient(torch.distributed.group.WORLD))


def barrier() -> None:
    """Wait for the others. Raises: as `gather`."""
    if in_process_group():
        with all_there():
            torch.distributed.barrier(_patient(torch.distributed.group.WORLD))


@cache
def _patient(world: ProcessGroup | None) -> ProcessGroup:
    """All processes of `world`, by gloo, which waits for a slow one and says when one has gone.

    NCCL gives up after half an hour, and takes the process with it; and plain values need no GPU.
    """
    return torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


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
