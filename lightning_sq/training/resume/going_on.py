"""What a run puts into its checkpoints besides what Lightning does, and how it goes on from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import LambdaLR

from lightning_sq.models.checkpoint_format import CHECKPOINT_KEY, checkpoint_entry
from lightning_sq.process_group import gather_objects
from lightning_sq.training.loop import count_steps
from lightning_sq.training.resume.begin_epoch_again import begin_epoch_again
from lightning_sq.training.resume.moved_run import bring_here
from lightning_sq.training.resume.rank_state import rank_state
from lightning_sq.training.resume.saved_state import settings
from lightning_sq.words import counted


def entry_of(module: LightningModule) -> dict[str, Any]:
    """For `CHECKPOINT_KEY`. Every rank comes here, only rank 0 writes."""
    run, trainer = module.run, module.trainer
    return checkpoint_entry(
        module.model.current_config(),
        run.recipe,
        epochs_trained=run.epochs_trained(module.global_step),
        resume={
            "model_at_start": module.model.config.to_dict(),
            "settings": settings(trainer, trainer.datamodule, module.optimization),
            "plan": run.state_dict(),
            "random_streams": gather_objects(rank_state(module)),
        },
    )


def go_on(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Take up the run that was saved, before Lightning reads the rest of its checkpoint."""
    run, trainer, entry = module.run, module.trainer, checkpoint[CHECKPOINT_KEY]
    if run.begins_epoch_again:
        here, (steps_per_epoch, _) = settings(trainer, trainer.datamodule, module.optimization), count_steps(trainer)
        limited = run.plan.limit is not None
        begin_epoch_again(checkpoint, here, steps_per_epoch=steps_per_epoch, limited=limited)
    bring_here(checkpoint, Path(trainer.ckpt_path), trainer.checkpoint_callbacks)
    saved, step = entry["resume"].get("plan"), checkpoint["global_step"]
    run.load_state_dict(saved, step=step, epochs_trained=entry.get("epochs_trained"))
    states = entry["resume"]["random_streams"]
    if len(states) == trainer.world_size:
        run.rank_state = states[module.global_rank]
        return
    rank_zero_warn(
        f"The checkpoint is from {counted(len(states), 'process')} and this run has {trainer.world_size}: "
        "noise starts a new stream, and the epoch starts again."
    )


def put_back_rate(schedule: LambdaLR) -> None:
    """The rate that Lightning put back is of the schedule that the run had: with other batches it is another."""
    for group, factor in zip(schedule.optimizer.param_groups, schedule.lr_lambdas, strict=True):
        group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)
