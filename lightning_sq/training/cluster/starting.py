"""Who starts the processes of a launch: torchrun, srun, or the first of them, by Lightning and the same words."""

from __future__ import annotations

import os

from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from lightning.pytorch import Trainer

from lightning_sq.errors import InputError
from lightning_sq.process_group import started_by_others
from lightning_sq.slurm_job import tasks_of_srun
from lightning_sq.words import counted


def cluster_environment() -> list[ClusterEnvironment]:
    """The plugin that says it to Lightning; none where Lightning itself finds the right one.

    Every job of SLURM with a number of tasks counts as started by srun there. A batch script that calls the command by
    itself would be one process of those tasks, and leave all GPUs but one idle, or wait for tasks that nobody starts.

    Raises: InputError where srun was not told what Lightning counts its tasks by.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_NTASKS" not in os.environ:
        return []
    started = tasks_of_srun(os.environ)
    if started is None:
        return [LightningEnvironment()]
    tasks, num_nodes = started
    told = os.environ.get("SLURM_NTASKS_PER_NODE", "not set")
    if told != str(tasks):
        raise InputError(
            f"srun has started {os.environ['SLURM_STEP_NUM_TASKS']} tasks on {counted(num_nodes, 'node')}, and "
            f"--ntasks-per-node is {told}. Give srun or sbatch --ntasks-per-node={tasks} in the place of --ntasks."
        )
    return [SLURMEnvironment()]


def check_started(trainer: Trainer) -> None:
    """Raises: InputError if the trainer is to have other processes than were started, or some that nobody starts."""
    started, asked = started_by_others(os.environ), (trainer.num_devices, trainer.num_nodes)
    if started not in (None, asked):
        devices, num_nodes = started
        raise InputError(
            f"--trainer.devices is {asked[0]} and --trainer.num_nodes {asked[1]}, and torchrun or srun has started "
            f"{counted(devices, 'process')} on {'a node' if num_nodes == 1 else f'each of {num_nodes} nodes'}. "
            f"Set --trainer.devices {devices} --trainer.num_nodes {num_nodes}, or start others."
        )
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"--trainer.num_nodes is {trainer.num_nodes}, and nobody has started the command on the other nodes. Start "
            "it by srun or torchrun, as slurm/README.md says, or leave the option out."
        )
