"""The processes of a launch: how many were started, whether in a group, which one this is, what all of them say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch.distributed

from lightning_sq.errors import ProcessLostError, one_line
from lightning_sq.slurm_job import tasks_of_srun

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


def started_by_others(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """(processes on a node, nodes) where torchrun or srun has started them; None where this process is alone."""
    if "TORCHELASTIC_RUN_ID" in environment:
        devices = int(environment["LOCAL_WORLD_SIZE"])
        return devices, int(environment["WORLD_SIZE"]) // devices
    return tasks_of_srun(environment)


def in_process_group() -> bool:
    """Whether there is one, of this process alone perhaps (Lightning, torchrun or srun made it)."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """Of this process, over all nodes; 0 where there is only one."""
    return torch.distributed.get_rank() if in_process_group() else 0


def world_size() -> int:
    """Number of processes."""
    return torch.distributed.get_world_size() if in_process_group() else 1


@contextmanager
def all_there() -> Iterator[None]:
    """For waiting for each other by gloo. Raises: ProcessLostError if another process has ended before its time."""
    try:
        yield
    except RuntimeError as error:  # of the backend: the connection is closed
        raise ProcessLostError(
            f"Process {rank()} of {world_size()} has lost another one: it was killed, or its error stands above. "
            "Start the same command again; an evaluation goes on where it keeps its verdicts. The connection's own "
            f"words: {one_line(error)}."
        ) from error


def gather_objects(value: Any, group: ProcessGroup | None = None) -> list[Any]:
    """`value` of every process, by rank, in every process. Plain values only; all processes have to come here.

    Args:
        value: Of this process.
        group: All processes by a backend and with a patience of its own; None is what the launch has made.
    """
    if not in_process_group():
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value, group=group)
    return values


def largest_of_all(values: Tensor) -> list[int]:
    """The largest of each value over all processes, in each of them; waits for the others and for the GPU.

    One all-reduce of a few numbers, as 32-bit integers. Lightning's `reduce` puts a barrier before it.
    """
    values = values.to(torch.int32)
    if in_process_group():
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    return values.tolist()
