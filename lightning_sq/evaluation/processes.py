"""The processes of one launch: who this is, and what all of them know together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed
from torch.distributed import ProcessGroup

from lightning_sq.errors import ProcessLostError

LONGEST_WAIT = timedelta(days=30)
"""For the slowest process: its share of a solver's work may take hours."""


def together() -> bool:
    """Whether there is a process group, of one process perhaps (Lightning, torchrun or srun made it)."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """Of this process, over all nodes; 0 where there is only one."""
    return torch.distributed.get_rank() if together() else 0


def world_size() -> int:
    """Number of processes."""
    return torch.distributed.get_world_size() if together() else 1


def gather(value: Any) -> list[Any]:
    """`value` of every process, by rank, in every process. Plain values only.

    Raises: ProcessLostError if another process has ended before its time.
    """
    if not together():
        return [value]
    values: list[Any] = [None] * world_size()
    with _all_there():
        torch.distributed.all_gather_object(values, value, group=_patient(torch.distributed.group.WORLD))
    return values


def barrier() -> None:
    """Wait for the others. Raises: as `gather`."""
    if together():
        with _all_there():
            torch.distributed.barrier(_patient(torch.distributed.group.WORLD))


@cache
def _patient(world: ProcessGroup | None) -> ProcessGroup:
    """All processes of `world`, by gloo, which waits for a slow one and says when one has gone.

    NCCL gives up after half an hour, and takes the process with it; and plain values need no GPU.
    """
    return torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of the backend: the connection is closed
        cause = str(error).partition("\n")[0]
        raise ProcessLostError(
            f"Process {rank()} of {world_size()} has lost another one: it was killed, or its error stands above. "
            f"Start the same command again; where it keeps its verdicts it goes on. The connection's own words: {cause}"
        ) from error


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
