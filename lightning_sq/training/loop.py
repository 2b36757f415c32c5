"""Where in Lightning's loop a batch stands: what belongs behind it, whoever asks."""

from __future__ import annotations

from lightning.pytorch import Trainer


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimizer has stepped behind this batch: gathered gradients are in no checkpoint."""
    taken = batch_idx + 1
    return taken % trainer.accumulate_grad_batches == 0 or taken == trainer.num_training_batches


def validates_behind(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning validates behind this batch: the last of an epoch, or one of `val_check_interval`."""
    loop = trainer.fit_loop.epoch_loop
    if not loop._should_check_val_epoch():
        return False
    if batch_idx + 1 == trainer.num_training_batches or trainer.should_stop:
        return True
    every = trainer.val_check_batch
    if every in (None, float("inf")):
        return False
    counted = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return (counted + 1) % every == 0
