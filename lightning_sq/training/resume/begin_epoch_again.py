"""Going on with other batches than before: the epoch that was under way starts again from its first image."""

from __future__ import annotations

from math import prod
from typing import Any

from lightning_sq.models.checkpoint_format import CHECKPOINT_KEY

MAY_DIFFER = ("batch_size_per_device", "num_processes", "accumulate_grad_batches")
"""Settings whose product is the global batch: a run can go on with others, though not in the middle of an epoch."""


def begin_epoch_again(checkpoint: dict[str, Any], here: dict[str, Any], *, steps_per_epoch: int, limited: bool) -> None:
    """Turn a checkpoint, before Lightning reads it, into one of its epoch's beginning with the batches of `here`.

    Weights, momentum and logged steps stay as they are. The peak of the learning rate is scaled linearly with the
    global batch, as that of a new run is; the rate of the next step follows from it and from the new position.

    Args:
        checkpoint: As loaded.
        here: What `saved_state.settings` gives for this run.
        steps_per_epoch: Optimizer steps of an epoch of this run.
        limited: The run has a time limit, so that its schedule may be ahead of its epochs.
    """
    resume, loops = checkpoint[CHECKPOINT_KEY]["resume"], checkpoint["loops"]["fit_loop"]
    epoch = loops["epoch_progress"]["current"]["processed"]
    for counts in loops["epoch_progress"].values():
        counts.update(dict.fromkeys(counts, epoch))
    batches = loops["epoch_loop.batch_progress"]
    batches["total"].update(dict.fromkeys(batches["total"], batches["total"]["ready"]))
    batches["current"].update(dict.fromkeys(batches["current"], 0))
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"]
    checkpoint["callbacks"].get("OwedValidation", {}).update(owed=False)

    there = resume["settings"]
    larger = prod(here[name] for name in MAY_DIFFER) / prod(there[name] for name in MAY_DIFFER)
    for optimizer in checkpoint["optimizer_states"]:
        for group in optimizer["param_groups"]:
            group["initial_lr"] *= larger
    for schedule in checkpoint["lr_schedulers"]:
        schedule["base_lrs"] = [rate * larger for rate in schedule["base_lrs"]]

    plan = resume.setdefault("plan", {})
    before, plan["position"] = plan.get("position", 0.0), float(epoch * steps_per_epoch)
    if limited and "steps_per_epoch" in plan:
        plan["position"] = max(plan["position"], before / plan["steps_per_epoch"] * steps_per_epoch)
