"""Random states of every rank, for a checkpoint: without them dropout and noise of a resumed run would be others."""

from __future__ import annotations

import torch
from torch import Tensor


def random_streams(objective_state: Tensor | None, device: torch.device) -> dict[str, Tensor | None]:
    """This rank's random states: the objective's, and torch's, from which dropout and stochastic depth are drawn."""
    on_gpu = device.type == "cuda"
    return {
        "objective": objective_state,
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if on_gpu else None,
    }


def put_back_torch(streams: dict[str, Tensor | None], device: torch.device) -> None:
    """torch's generators as `random_streams` found them; those of a device that is not there are left."""
    torch.set_rng_state(streams["cpu"].cpu())
    if device.type == "cuda" and streams["cuda"] is not None:
        torch.cuda.set_rng_state(streams["cuda"].cpu(), device)
