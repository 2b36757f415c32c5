"""What happens beside the training step: measured speed, and progress where no bar can be drawn."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_sq.types import Batch


def average_where_training_is(trainer: Trainer) -> None:
    """Averages of weights are to be on the device of the training, and moving ones to be taken of all weights at once.

    Lightning's callback asks the module where it is before that is moved, so that it would copy the weights to the CPU
    at each step; and the moving one goes through them one by one.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging) and callback._device is None:
            callback._device = trainer.strategy.root_device
        if isinstance(callback, EMAWeightAveraging) and (one_by_one := callback._kwargs.pop("avg_fn", None)):
            decay = one_by_one(1.0, 0.0, 0)  # kept nowhere else: what is left of 1 beside 0
            callback._kwargs["multi_avg_fn"] = get_ema_multi_avg_fn(decay)


class Throughput(Callback):
    """Logs train/images_per_second over all processes, and train/seconds of the run so far, once an epoch.

    Validation is not counted; waiting for data is. The seconds are saved, so they are those of all starts together.
    """

    def __init__(self) -> None:
        self.total_seconds = 0.0
        self._images = 0
        self._seconds = 0.0
        self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()  # a run that resumes inside an epoch does not start it

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images, self._seconds, self._since = 0, 0.0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.labels) * trainer.world_size
        now = time.perf_counter()
        passed = now - self._since
        self._seconds, self._since, self.total_seconds = self._seconds + passed, now, self.total_seconds + passed

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._seconds:  # none in an epoch whose batches an earlier start took
            rate = self._images / self._seconds  # only now: Lightning would average the averages at each step
            pl_module.log("train/images_per_second", rate, prog_bar=True, sync_dist=True)
        pl_module.log("train/seconds", self.total_seconds, sync_dist=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"total_seconds": self.total_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total_seconds = state_dict["total_seconds"]


class ProgressLines(Callback):
    """One line now and then, for a log file: how far, how long still, loss.

    How long still is what the rest of the schedule takes at the speed of this start, and never more than the time limit
    leaves: steps go further along the schedule where they have to.

    Args:
        every_seconds: Between two lines.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        self.every_seconds = every_seconds
        self._began = self._last = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._last = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._last < self.every_seconds:
            return
        self._last = now
        rank_zero_info(self._line(trainer, pl_module, batch_idx + 1, now - self._began))

    def _line(self, trainer: Trainer, module: LightningModule, batch_number: int, seconds: float) -> str:
        plan, taken = module.run.plan, max(1, trainer.global_step - self._first_step)
        left = min(seconds / taken * (plan.total_steps - plan.position), plan.seconds_left(module.run.elapsed))
        metrics = trainer.callback_metrics
        loss = f", loss {metrics['train/loss']:.3f}" if "train/loss" in metrics else ""
        accuracy = f", clean top-1 {metrics['val/clean_top1']:.3f}" if "val/clean_top1" in metrics else ""
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        return (
            f"{epoch}, batch {batch_number}/{trainer.num_training_batches}"
            f"{loss}{accuracy}, {timedelta(seconds=round(seconds))} so far, {timedelta(seconds=round(left))} left"
        )
