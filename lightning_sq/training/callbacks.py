"""What happens beside the training step: measured speed."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sq.types import Batch


class Throughput(Callback):
    """Logs train/images_per_second over all processes, once an epoch and in the progress bar.

    Validation is not counted; waiting for data is.
    """

    def __init__(self) -> None:
        self._images = 0
        self._seconds = 0.0
        self._since = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images, self._seconds, self._since = 0, 0.0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.labels) * trainer.world_size
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now
        rate = self._images / self._seconds
        pl_module.log("train/images_per_second", rate, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
