"""Lightning's loop in this project's terms: how many steps there are, and what belongs behind a batch, whoever asks."""

from __future__ import annotations

import math
import time

from lightning.pytorch import Trainer

from lightning_sq.errors import InputError


def global_batch_size(trainer: Trainer) -> int:
    """Images of an optimizer step, over all processes."""
    return trainer.datamodule.batch_size_per_device * trainer.world_size * trainer.accumulate_grad_batches


def count_batches(trainer: Trainer) -> int:
    """Of this process, an epoch."""
    batches = trainer.datamodule.num_training_batches(trainer.world_size)
    limit = trainer.limit_train_batches
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


def validates_behind(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning validates behind this batch: the last of an epoch, or one of `val_check_interval`."""
    loop = trainer.fit_loop.epoch_loop
    if not loop._should_check_val_epoch():
        return False
    seconds = trainer._val_check_time_interval  # of the clock, which takes no account of epochs
    if seconds is not None and not trainer.should_stop:
        return time.monotonic() - trainer._last_val_time >= seconds
    if batch_idx + 1 == trainer.num_training_batches or trainer.should_stop:
        return True
    every = trainer.val_check_batch
    if every in (None, float("inf")):
        return False
    counted = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return (counted + 1) % every == 0
