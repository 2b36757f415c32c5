"""Callbacks that a test names on the command line. They stand apart from the tests because pytest and
jsonargparse import a test file under two names, which would make two classes of one."""

from __future__ import annotations

from typing import ClassVar

from lightning.pytorch import Callback


class PowerCut(Callback):
    """Ends the process's training in the middle of an epoch, as a cluster would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise SystemExit("power cut")


class Recorder(Callback):
    """Notes which images came in each epoch, in order, and the sum of the pixels of each batch."""

    seen: ClassVar[dict[int, list[tuple[list[int], float]]]] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        row = (batch.indices.tolist(), batch.images.sum().item())
        self.seen.setdefault(trainer.current_epoch, []).append(row)
