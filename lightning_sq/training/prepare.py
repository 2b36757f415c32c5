"""Looking at the data's files once on each node, however the processes were started."""

from __future__ import annotations

from datetime import timedelta

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.process_group import all_there

FOREVER = timedelta(days=365)  # a first look at a large folder takes longer than a process group's patience


def prepare_data_once(trainer: Trainer, data: ImageFolderData) -> None:
    """`data.prepare_data()` on the first process of all, before anything is written; then on the first of each other
    node, which finds the work done where the cache is shared; the others take what theirs has left in the cache.

    To list the files and ask for the time of each takes minutes for a million of them on a shared disk. It is done
    here, where nobody waits with less patience: `Watchdog` shortens it. torchrun and srun start all processes at once,
    so they meet in a process group first. Where Lightning starts the others itself, it does so only after the first one
    was here, and that one waits as long as a start may take.

    Raises: ProcessLostError if another process has been refused its data, or has ended otherwise.
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
    found = [data.fingerprints() if trainer.global_rank == 0 else None]
    with all_there():
        torch.distributed.broadcast_object_list(found, src=0, group=everyone)  # waits for the first
    if trainer.local_rank == 0:
        data.prepare_data()
    with all_there():
        torch.distributed.barrier(everyone)
    if trainer.local_rank != 0:
        data.take_prepared(found[0])
    with all_there():
        torch.distributed.barrier(everyone)
    torch.distributed.destroy_process_group(everyone)
