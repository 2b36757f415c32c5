"""Lightning's loop in this project's terms: how many steps there are, and what belongs behind a batch, whoever asks."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer

from lightning_sq.errors import InputError


def global_batch_size(trainer: Trainer) -> int:
    """Images of an optimizer step, over all processes."""
    return trainer.datamodule.batch_size_per_device * trainer.world_size * trainer.accumulate_grad_batches


def count_batches(trainer: Trainer) -> int:
    """Of this process, an epoch."""
    return limited(trainer.datamodule.num_training_batches(trainer.world_size), trainer.limit_train_batches)


def limited(batches: int, limit: float | None) -> int:
    """What `--trainer.limit_train_batches` or such leaves of an epoch's: so many if an int, a share if a float."""
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def count_steps(trainer: Trainer) -> tuple[int, int]:
    """(optimizer steps an epoch, in all), without `estimated_stepping_batches`, which drops a loader's state.

    Raises: InputError for a training without an end, which the learning rate would have to fall towards.
    """
    steps_per_epoch = max(1, math.ceil(count_batches(trainer) / trainer.accumulate_grad_batches))
    epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else math.inf
    limits = [steps_per_epoch * epochs] + ([trainer.max_steps] if trainer.max_steps > 0 else [])
    total = min(limits)
    if not math.isfinite(total):
        raise InputError(
            "The learning rate falls to the end of the schedule, and there is none. Set --trainer.max_epochs or "
            "--trainer.max_steps; where time is short, --time_limit in the place of --trainer.max_time."
        )
    return steps_per_epoch, int(total)


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimizer has stepped behind this batch: gathered gradients are in no checkpoint."""
    taken = batch_idx + 1
    return taken % trainer.accumulate_grad_batches == 0 or taken == trainer.num_training_batches


def is_last_batch(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning ends the training behind this batch, by the epochs or steps that were asked for."""
    ends_epoch = batch_idx + 1 == trainer.num_training_batches
    return trainer.global_step == trainer.max_steps or (ends_epoch and trainer.current_epoch + 1 == trainer.max_epochs)


def validates_behind(trainer: Trainer) -> bool:
    """Whether Lightning will validate behind the batch that is over, by its own rule: not at each end of an epoch where
    `val_check_interval` says otherwise.
    """
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
