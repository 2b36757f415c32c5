"""What a checkpoint holds of each process: without it dropout and noise of a run that goes on would be others, and what
it has counted in its epoch would be lost.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule


def rank_state(module: LightningModule) -> dict[str, Any]:
    """Of this process: the random states of the objective and of torch, from which dropout and stochastic depth are
    drawn, and the right answers counted in this epoch.
    """
    counted, device = module.train_top1, module.device
    return {
        "objective": module.objective.random_state,
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "train_top1": {name: getattr(counted, name).cpu() for name in counted._defaults},
    }


def put_back_rank_state(module: LightningModule) -> None:
    """What the checkpoint holds of this process, once: when all is set up, which draws from torch's stream, and before
    the first batch or the validation that is owed, behind which the run is saved with it. Generators of a device that
    is not there are left.
    """
    state, module.run.rank_state = module.run.rank_state, None
    if state is None:
        return
    device, counted = module.device, module.train_top1
    module.objective.random_state = state["objective"]
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    for name, value in state.get("train_top1", {}).items():
        setattr(counted, name, value.to(device))
        counted._update_count += int(value.any())
