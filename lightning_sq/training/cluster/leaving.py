"""Leaving a run because a cluster asks for its nodes: all processes at the end of the same step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_sq.process_group import in_process_group, largest_of_all
from lightning_sq.stop_request import SIGNALS, STOPPED, stop_requested
from lightning_sq.training.loop import ends_step, validates_behind

SHORT_VALIDATION = 5.0
"""Seconds. A validation that takes no longer is waited for; before a longer one the run is saved."""


class LeaveWhenAsked(Callback):
    """Saves and ends the run, with exit status 75, once a signal has come to any of its processes.

    The processes have agreed on it inside the training step (`RunState.agree`), so they come here
    behind the same step. The status tells the batch script to queue the job again: nothing in here needs SLURM. Where
    the checkpoint could not be written, on a full disk say, the status is 1, as of any failure.

    Args:
        checkpoint: The file to save, and to go on from.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._validation_is_long = True  # until one has been timed; the same in all processes, who save together
        self._validation_began = 0.0
        self._saved_before_validation = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # a validation that is still owed begins this start, and what it is of has been saved
        self._saved_before_validation = trainer.ckpt_path is not None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        if pl_module.run.asked_to_stop:
            trainer.save_checkpoint(self.checkpoint)
            self._leave(trainer, f"The run is saved at step {trainer.global_step}")
        self._saved_before_validation = validates_behind(trainer) and self._validation_is_long
        if self._saved_before_validation:
            trainer.save_checkpoint(self.checkpoint)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._saved_before_validation:
            return
        (asked,) = largest_of_all(torch.tensor([stop_requested() is not None], device=pl_module.device))
        if asked:
            self._leave(trainer, f"The run was saved at step {trainer.global_step}, before this validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        long = time.monotonic() - self._validation_began > SHORT_VALIDATION
        (is_long,) = largest_of_all(torch.tensor([long], device=pl_module.device))
        self._validation_is_long = bool(is_long)

    def _leave(self, trainer: Trainer, what: str) -> NoReturn:
        if in_process_group():
            torch.distributed.barrier()  # nobody ends the job before everybody is here
            # NCCL's is collective, and Lightning would let the first process do it alone at its exit
            torch.distributed.destroy_process_group()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the goal is reached
        if trainer.global_rank:  # one status is enough; two could be taken for a crash of each by the other
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        who = stop_requested() or "another process"
        failure = getattr(trainer.strategy.checkpoint_io, "failure", None)  # of the checkpoint that `what` is about
        if failure:  # who is told 75 queues the job again however often, and would lose as much each time
            rank_zero_info(f"The run ends unsaved, because {who} asked for it: {failure} Make room, and add --resume.")
            raise SystemExit(1)
        rank_zero_info(f"{what}, because {who} asked for it. --resume goes on.")
        raise SystemExit(STOPPED)


def switch_off_own_handlers(trainer: Trainer) -> None:
    """Keep Lightning from registering its signal handlers: they broadcast and save in the middle of whatever runs.

    One rank inside an all-reduce and another inside such a handler wait for each other for ever. Nor is it to broadcast
    before each batch whether one of them was called, for which every GPU would run dry.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
