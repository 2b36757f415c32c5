"""When a run is saved, and how the file is written."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_sq.training.start import BEST, CHECKPOINTS, LAST


class TimedCheckpoint(ModelCheckpoint):
    """Saves every few minutes, and only behind an optimizer step: gathered gradients are in no checkpoint."""

    state_key = "TimedCheckpoint"  # Lightning's names the minutes, and would miss a callback when they change

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        taken = batch_idx + 1
        if taken % trainer.accumulate_grad_batches == 0 or taken == trainer.num_training_batches:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class WholeFileIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and renames, so that one of them is always whole.

    Lightning writes into the system's temporary folder and moves: over two file systems that is a copy, and a run that
    is killed during it has no checkpoint any more.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)


def checkpointing(output: Path, minutes: float) -> list[ModelCheckpoint]:
    """`last` after each epoch and every few minutes, `best` by clean validation accuracy."""
    common = {"dirpath": output / CHECKPOINTS, "enable_version_counter": False, "auto_insert_metric_name": False}
    return [
        ModelCheckpoint(filename=BEST, monitor="val/clean_top1", mode="max", **common),
        ModelCheckpoint(filename=LAST, every_n_epochs=1, save_on_train_epoch_end=True, **common),
        TimedCheckpoint(filename=LAST, train_time_interval=timedelta(minutes=minutes), **common),
    ]
