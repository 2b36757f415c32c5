"""How much of the training time goes into waiting for data, and what to do about it."""

from __future__ import annotations

import time

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_sq.cores import usable_cores

HINT_ABOVE = 0.05


class WaitingForData(Callback):
    """Logs train/waiting_share in [0, 1], and the seconds of which it is made, train/reader_seconds and
    train/decoder_seconds, once an epoch; says what to change where more than a twentieth of the time is waiting.

    Validation is not counted. The share is what the process waits; a GPU, whose work is queued, waits at most that.
    """

    def __init__(self) -> None:
        self._began = self._waited = self._waited_for_reader = self._paused = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)  # a run that resumes inside an epoch does not start it

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        loader = trainer.train_dataloader
        self._began, self._waited, self._waited_for_reader = time.monotonic(), loader.waited, loader.waited_for_reader

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began += time.monotonic() - self._paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = trainer.train_dataloader
        seconds = time.monotonic() - self._began
        waited, reader = loader.waited - self._waited, loader.waited_for_reader - self._waited_for_reader
        share = min(1.0, waited / max(seconds, 1e-9))
        logged = {"waiting_share": share, "reader_seconds": reader, "decoder_seconds": waited - reader}
        for name, value in logged.items():
            pl_module.log(f"train/{name}", value, sync_dist=True)
        if share > HINT_ABOVE:
            data = trainer.datamodule
            told = hint(
                trainer.current_epoch,
                share,
                reader / waited,
                num_threads=data.num_threads,
                cores=usable_cores(),
                in_memory=data.backend == "memory",
                cuts=bool(data.max_shift or data.flip_probability),
            )
            rank_zero_info(told)


def hint(
    epoch: int, share: float, reader: float, *, num_threads: int, cores: int, in_memory: bool = False, cuts: bool = True
) -> str:
    """One line: how much was waited for what, and what would be faster.

    Args:
        epoch: Its number, from 0.
        share: Of the time that was spent waiting.
        reader: The part of the waiting that was for files.
        num_threads: As set.
        cores: That this process may use.
        in_memory: Whether nothing is read or decoded, and batches are cut from what is in memory.
        cuts: Whether such images are shifted or flipped.
    """
    if in_memory:
        remedy = "leave shifts and flips out (--data.max_shift 0 --data.flip_probability 0), or " if cuts else ""
        remedy += "give it a faster core"
        return f"Epoch {epoch + 1} waited for data {share:.0%} of its time, for batches to be cut in memory: {remedy}."
    who = "reader" if reader > 0.5 else "decoder"
    if who == "reader":
        remedy = "put the data on a local disk, or into shards (`lightning-sq data shard`)"
    elif num_threads < cores:
        remedy = f"raise --data.num_threads from {num_threads} (this process may use {cores} cores)"
    else:
        remedy = "shrink the images once (`lightning-sq data shard --short-side 352`), or give the job more cores"
    return f"Epoch {epoch + 1} waited for data {share:.0%} of its time, most of it for the {who}: {remedy}."
