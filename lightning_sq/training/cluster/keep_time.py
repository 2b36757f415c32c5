"""Measures what `TimePlan` plans with, and ends the run when its schedule is through."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_sq.training.loop import ends_step, is_last_batch

FIRST_GUESS = 0.5
"""Of a step's time: a batch of the first validation, which nobody has timed yet."""
NOT_TIMED = 3
"""First steps of a start, in which caches are filled and kernels chosen."""


class KeepTime(Callback):
    """Times steps and validations, and stops the training once the plan's last step is taken."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._taken = 0
        self._validation_began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last, self._taken = None, 0
        trainer.should_stop |= pl_module.run.ends_early(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        plan, now = pl_module.run.plan, time.monotonic()
        self._taken += 1
        if self._last is not None and self._taken > NOT_TIMED:
            plan.note_step(now - self._last)
        self._last = now
        if not plan.validation_seconds:
            plan.validation_seconds = FIRST_GUESS * plan.step_seconds * sum(trainer.num_val_batches)
        if plan.finished and not is_last_batch(trainer, batch_idx):
            if plan.limit is not None:
                rank_zero_info(f"The time limit ends the run at step {trainer.global_step}, its schedule complete.")
            trainer.should_stop = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        plan = pl_module.run.plan
        plan.validation_seconds = time.monotonic() - self._validation_began
        plan.checkpoint_seconds = getattr(trainer.strategy.checkpoint_io, "seconds", 0.0)
        self._last = None  # the next step's data waited meanwhile
