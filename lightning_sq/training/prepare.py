"""Looking at the data's files once on each node, however the processes were started."""

from __future__ import annotations

from datetime import timedelta

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

FOREVER = timedelta(days=365)  # a first look at a large folder takes longer than a process group's patience


def prepare_data_once(trainer: Trainer, data: LightningDataModule) -> None:
    """`data.prepare_data()` on the first process of each node, before anything is written; then on the others.

    These find the work done, but still have to list the files and ask for the time of each, minutes for a million of
    them on a shared disk. So they do it here, where nobody waits for them with less patience: `Watchdog` shortens it.
    torchrun and srun start all processes at once, so they meet in a process group first. Where Lightning starts the
    others itself, it does so only after the first one was here, and that one waits as long as a start may take.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or isinstance(environment, LightningEnvironment):
        data.prepare_data()
        return
    trainer.strategy.setup_environment()
    if not torch.distributed.is_initialized():
        data.prepare_data()
        return
    everyone = torch.distributed.new_group(backend="gloo", timeout=FOREVER)
    if trainer.local_rank == 0:
        data.prepare_data()
    torch.distributed.barrier(everyone)
    if trainer.local_rank != 0:
        data.prepare_data()
    torch.distributed.barrier(everyone)
    torch.distributed.destroy_process_group(everyone)
