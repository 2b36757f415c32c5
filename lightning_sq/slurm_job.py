"""What SLURM gave the job that this process belongs to, and what the job leaves for its next start."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from lightning_sq.errors import HostError
from lightning_sq.paths import write_whole

JOB = "SLURM_JOB_ID"
JOB_FILE = ".job"
"""In an output folder, the job that has taken it on. A batch script that is started again goes on with what its own job
has left there, and with nothing older."""


def note_job(output: Path) -> None:
    """Leave the job's number in `output`; nothing without a job."""
    if JOB in os.environ:
        write_whole(output / JOB_FILE, f"{os.environ[JOB]}\n")


def check_gpus() -> None:
    """Raises: HostError if SLURM gave the job GPUs on this host and torch sees none."""
    import torch

    given = os.environ.get("SLURM_GPUS_ON_NODE", "0") != "0" or os.environ.get("SLURM_JOB_GPUS")
    if given and not torch.cuda.is_available():
        host = socket.gethostname()
        raise HostError(
            f"SLURM gave this job GPUs on {host}, and torch sees none there. If nvidia-smi sees none either, have its "
            f"driver mended, or submit with --exclude={host}."
        )
