"""What SLURM gave the job that this process belongs to, and what the job leaves for its next start."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from lightning_sq.errors import HostError, InputError
from lightning_sq.paths import write_whole
from lightning_sq.words import counted

JOB = "SLURM_JOB_ID"
JOB_FILE = ".job"
"""In an output folder, the job that has taken it on. A batch script that is started again goes on with what its own job
has left there, and with nothing older."""


def note_job(output: Path) -> None:
    """Leave the job's number in `output`; nothing without a job."""
    if JOB in os.environ:
        write_whole(output / JOB_FILE, f"{os.environ[JOB]}\n")


def tasks_of_srun(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """(tasks on a node, nodes) where srun has started several; None in a batch script, which is in no step."""
    tasks, num_nodes = (int(environment.get(f"SLURM_STEP_NUM_{name}", 1)) for name in ("TASKS", "NODES"))
    return (tasks // num_nodes, num_nodes) if tasks > 1 else None


def check_gpus() -> None:
    """Raises: HostError if SLURM gave the job more GPUs on this host than torch sees; InputError if each of several
    tasks is shown one alone, where Lightning takes the one of its number.
    """
    import torch

    if os.environ.get("SLURM_GPUS_ON_NODE", "0") == "0" and not os.environ.get("SLURM_JOB_GPUS"):
        return
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # by SLURM: those of the task, which may be fewer
    given = 1 if "MIG" in shown else shown.count(",") + 1  # CUDA shows one part of a GPU, whatever is listed
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < given:
        host = socket.gethostname()
        raise HostError(
            f"SLURM gave this job {'GPUs' if seen == 0 else counted(given, 'GPU')} on {host}, and torch sees "
            f"{seen or 'none'} there. If nvidia-smi sees no more either, have its driver mended, or submit with "
            f"--exclude={host}."
        )
    tasks, _ = tasks_of_srun(os.environ) or (1, 1)
    if seen == 1 < tasks and "MIG" not in shown:
        raise InputError(
            f"Each of the {tasks} tasks on a node sees one GPU: this cluster binds one GPU to a task. "
            "Submit with --gpu-bind=none, and with as many GPUs on a node as tasks."
        )
