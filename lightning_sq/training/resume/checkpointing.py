"""When a run is saved, and how the file is written."""

from __future__ import annotations

import time
from copy import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_sq.run_files import CHECKPOINTS
from lightning_sq.training.loop import ends_step
from lightning_sq.training.resume.start import BEST, BEST_ROBUST, LAST
from lightning_sq.training.resume.whole_checkpoint import keep_before, write_checkpoint
from lightning_sq.training.robust_accuracy import RobustAccuracy


class TimedCheckpoint(ModelCheckpoint):
    """Saves every few minutes, and only behind an optimizer step.

    The first process's clock decides. The others hear of it inside the training step (`RunState.agree`):
    Lightning would broadcast its time behind each step, and all GPUs would wait for that.
    """

    state_key = "TimedCheckpoint"  # Lightning's names the minutes, and would miss a callback when they change

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        passed = time.monotonic() - self._last_time_checked
        pl_module.run.save_is_due = trainer.is_global_zero and passed >= self._train_time_interval.total_seconds()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.run.save_is_due and ends_step(trainer, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class NamedCheckpoint(ModelCheckpoint):
    """Told from others by its class and file, in a checkpoint of the run.

    Lightning tells them by metric and rhythm, by which a recipe's own `ModelCheckpoint` may be like one of these.
    """

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__} {self.filename}"

    @property
    def former_state_key(self) -> str:
        """By which checkpoints of earlier versions know it: Lightning's."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)


class BestCheckpoint(NamedCheckpoint):
    """Keeps the best by a metric, and knows what is the best by the file that is there.

    Lightning notes a score before it writes the file. Where that failed, on a full disk say, the one before is the best
    still, or all that lie between the two scores would not be written over it.
    """

    def _update_best_and_save(self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        before = {name: copy(value) for name, value in vars(self).items() if name in self.state_dict()}
        super()._update_best_and_save(current, trainer, monitor_candidates)
        failed = getattr(trainer.strategy.checkpoint_io, "failure", None) is not None
        if trainer.strategy.broadcast(failed):  # the first process has written, and alone knows
            vars(self).update(before)


class WholeFileIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and renames, so that one of them is always whole; see `whole_checkpoint`.

    A write that fails, on a full disk say, is reported and the run goes on: the checkpoint before it is as it was. The
    last one of a run has to succeed; `failure` says whether it did, `seconds` how long the last write took.

    Args:
        keep_last: How many of `last.ckpt` are kept, itself included: `last-1.ckpt` is the one before.
    """

    def __init__(self, keep_last: int = 1) -> None:
        super().__init__()
        self.keep_last = keep_last
        self.failure: str | None = None
        self.seconds = 0.0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        before = keep_before(self.keep_last) if path.stem == LAST else None
        began = time.monotonic()
        try:
            write_checkpoint(checkpoint, path, before_rename=before)
        except OSError as error:
            self.failure = f"{path} was not written at step {checkpoint.get('global_step')}: {error.strerror or error}."
            rank_zero_info(f"{self.failure} The one before it is as it was; the run goes on.")
        else:
            self.failure, self.seconds = None, time.monotonic() - began


def checkpointing(output: Path, minutes: float, *, robust: bool = False) -> list[ModelCheckpoint]:
    """`last` after each epoch and every few minutes, `best` by clean validation accuracy.

    With `robust` also `best_robust`, by what `RobustAccuracy` measures.
    """
    common = {"dirpath": output / CHECKPOINTS, "enable_version_counter": False, "auto_insert_metric_name": False}
    best = _kept_by(robust)
    return [
        *(BestCheckpoint(filename=name, monitor=metric, mode="max", **common) for name, metric in best.items()),
        NamedCheckpoint(filename=LAST, every_n_epochs=1, save_on_train_epoch_end=True, **common),
        TimedCheckpoint(filename=LAST, train_time_interval=timedelta(minutes=minutes), **common),
    ]


def most_checkpoints(keep_last: int, *, robust: bool) -> int:
    """That lie on the disk at once: those that are kept, and the one that is being written."""
    return keep_last + len(_kept_by(robust)) + 1


def _kept_by(robust: bool) -> dict[str, str]:
    """What is the best by which metric."""
    return {BEST: "val/clean_top1"} | ({BEST_ROBUST: "val/robust_top1"} if robust else {})


def measures_robustness(callbacks: list[Any]) -> bool:
    """Whether one of them logs val/robust_top1."""
    return any(isinstance(callback, RobustAccuracy) for callback in callbacks)
