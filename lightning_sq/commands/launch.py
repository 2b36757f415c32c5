"""The processes of a command that is not LightningCLI's: one, as many as asked for, or those of torchrun and srun."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lightning_sq.errors import InputError

if TYPE_CHECKING:
    import torch


def launch(device: str | None, devices: int, num_nodes: int) -> torch.device:
    """Join the other processes, start them if nobody has, and return this one's device.

    Args:
        device: "cpu", "cuda" or "cuda:N"; None is CUDA where there is a GPU, else the CPU.
        devices: Processes on this node, each with a GPU of its own where there are some.
        num_nodes: Nodes; more than one needs torchrun or srun.
    Raises: InputError for a device that is not there.
    """
    import torch

    chosen = _device(device)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    if devices * num_nodes == 1:
        return chosen
    if chosen.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"--devices {devices} is more than the {torch.cuda.device_count()} GPUs of this machine.")
    from lightning.fabric import Fabric

    from lightning_sq.training.parser import quiet_lightning

    quiet_lightning()
    accelerator = "cuda" if chosen.type == "cuda" else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy="ddp")
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
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch sees no GPU here. Leave the option out, or write --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs, counted from 0.")
    return device
