"""Callbacks that a test names on the command line. They stand apart from the tests because pytest and
jsonargparse import a test file under two names, which would make two classes of one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch import Callback

from lightning_sq.stop_request import stop_requested


class PowerCut(Callback):
    """Ends the process's training where a cluster would.

    Args:
        step: Optimizer steps taken by then.
        hook: When: at the start of a batch, of validation or of an epoch, or at its end.
        batch: Number of the batch in its epoch; any if left out.
    """

    def __init__(self, step: int, hook: str = "on_train_batch_start", batch: int | None = None) -> None:
        self.step, self.hook, self.batch = step, hook, batch

    def _cut(self, hook: str, trainer, batch_idx: int | None = None) -> None:
        if hook == self.hook and trainer.global_step == self.step and self.batch in (None, batch_idx):
            raise SystemExit("power cut")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._cut("on_train_batch_start", trainer, batch_idx)

    def on_validation_start(self, trainer, pl_module) -> None:
        self._cut("on_validation_start", trainer)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._cut("on_train_epoch_start", trainer)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self._cut("on_train_epoch_end", trainer)


class Recorder(Callback):
    """Notes which images came in each epoch, in order, and the sum of the pixels of each image."""

    seen: ClassVar[dict[int, list[tuple[list[int], list[float]]]]] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        row = (batch.indices.tolist(), batch.images.sum((1, 2, 3)).tolist())
        self.seen.setdefault(trainer.current_epoch, []).append(row)


class Dropout(Callback):
    """Gives a timm backbone the dropout that recipes do not, drawn from torch's own random state."""

    def setup(self, trainer, pl_module, stage) -> None:
        pl_module.model.backbone.drop_rate = 0.5


class NoiseDiary(Callback):
    """Each rank writes the noise that it would draw next into a file of its own in `folder`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer, pl_module) -> None:
        noisy = pl_module.objective.perturb(torch.full((1, 3, 4, 4), 0.5))
        (self.folder / f"rank-{trainer.global_rank}.txt").write_text(str(noisy.flatten().tolist()))


class Shapes(Callback):
    """Notes the heights of the images of each epoch."""

    seen: ClassVar[dict[int, set[int]]] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.setdefault(trainer.current_epoch, set()).add(batch.images.shape[-1])


class BatchDiary(Callback):
    """Each rank writes down every batch that it takes: step, images, and a digest of their pixels.

    Args:
        folder: Gets train-RANK.jsonl and val-RANK.jsonl.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def _write(self, split: str, trainer, batch) -> None:
        pixels = hashlib.sha256(batch.images.numpy().tobytes()).hexdigest()
        row = {"step": trainer.global_step, "indices": batch.indices.tolist(), "pixels": pixels}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{split}-{trainer.global_rank}.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._write("train", trainer, batch)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._write("val", trainer, batch)


class Pause(Callback):
    """Makes one process slower than the others, and every process slow.

    Args:
        seconds: Added to each batch of training.
        rank: The process that takes twice as long.
        validation: Seconds added to each batch of validation.
    """

    def __init__(self, seconds: float, rank: int = 0, validation: float = 0.0) -> None:
        self.seconds, self.rank, self.validation = seconds, rank, validation

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        time.sleep(self.seconds * (1 + (trainer.global_rank == self.rank)))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        time.sleep(self.validation)


class WaitForSignal(Callback):
    """Holds one process up at a step until a signal asks it to stop, however late that comes.

    Args:
        rank: The process.
        step: Optimizer steps taken by then.
    """

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        while (trainer.global_rank, trainer.global_step) == (self.rank, self.step) and stop_requested() is None:
            time.sleep(0.1)


class Spoil(Callback):
    """Makes the images of one process's batch NaN, as a broken file or a failing memory would.

    Args:
        rank: The process.
        step: Optimizer steps taken by then.
        once: A file that is made then; where it is there already, nothing happens.
    """

    def __init__(self, rank: int, step: int, once: str | None = None) -> None:
        self.rank, self.step, self.once = rank, step, once

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step) and first_time(self.once):
            batch.images.fill_(float("nan"))


class SpoilWeights(Callback):
    """Makes weights infinite behind an optimizer step, as an overflow that no loss has shown yet would.

    Args:
        step: Optimizer steps taken by then.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            next(pl_module.parameters()).data.fill_(float("inf"))


class Disaster(Callback):
    """Sends a signal to the process itself, as a cluster or a failing machine would.

    Args:
        rank: The process that it hits.
        step: Optimizer steps taken by then.
        number: The signal: SIGKILL, or SIGSTOP for a process that hangs.
        once: A file that is made then; where it is there already, nothing happens.
        validates: In a batch of validation, in the place of one of training.
    """

    def __init__(self, rank: int, step: int, number: str, once: str | None = None, validates: bool = False) -> None:
        self.rank, self.step, self.signal, self.once = rank, step, signal.Signals[number], once
        self.validates = validates

    def _strike(self, trainer) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step) and first_time(self.once):
            os.kill(os.getpid(), self.signal)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if not self.validates:
            self._strike(trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if self.validates:
            self._strike(trainer)


def first_time(once: str | None) -> bool:
    """Whether the file is not there yet; it is then. Always, without one."""
    if once is None:
        return True
    if Path(once).exists():
        return False
    Path(once).touch()
    return True
