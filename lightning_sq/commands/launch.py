"""The processes of a command that is not LightningCLI's: one, as many as asked for, or those of torchrun and srun."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lightning_sq.children import end_with_first
from lightning_sq.errors import InputError
from lightning_sq.slurm_job import check_gpus
from lightning_sq.words import counted

if TYPE_CHECKING:
    import torch


def launch(device: str | None, devices: int) -> torch.device:
    """Join the other processes, start them if nobody has, and return this one's device.

    Args:
        device: "cpu", "cuda" or "cuda:N"; None is CUDA where there is a GPU, else the CPU.
        devices: Processes on this machine, each with a GPU of its own where there are some; torchrun and srun know
            better.
    Raises: InputError for a device that is not there, and for tasks of srun that Lightning does not count; HostError
        if SLURM gave the device.
    """
    import torch

    from lightning_sq.process_group import started_by_others

    chosen = _device(device)
    started = started_by_others(os.environ)
    devices, num_nodes = started or (devices, 1)
    if devices * num_nodes == 1:
        return chosen
    if chosen.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(
            f"--devices {devices}: this machine has {counted(torch.cuda.device_count(), 'GPU')}. Give no more."
        )
    if started is None:
        end_with_first()
    from lightning.fabric import Fabric

    from lightning_sq.training.cluster.starting import cluster_environment
    from lightning_sq.training.parser import quiet_lightning

    quiet_lightning()
    accelerator = "cuda" if chosen.type == "cuda" else "cpu"
    plugins = cluster_environment()
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy="ddp", plugins=plugins)
    fabric.launch()
    return fabric.device


def _device(name: str | None) -> torch.device:
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise InputError(f"--device {name} is no device. Write cpu, cuda or cuda:0.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name} is not one of cpu, cuda.")
    if device.type == "cpu":
        return device
    check_gpus()
    if not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch sees no GPU here. Leave the option out, or write --device cpu.")
    if (device.index or 0) >= torch.cuda.device_count():
        gpus = counted(torch.cuda.device_count(), "GPU")
        raise InputError(f"--device {name}: this machine has {gpus}, numbered from 0.")
    return device
