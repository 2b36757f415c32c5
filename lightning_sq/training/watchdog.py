"""A run whose processes wait for one that does not come: ended in seconds, with its name."""

from __future__ import annotations

import os
import socket
import sys
import threading
from datetime import timedelta

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sq.errors import InputError
from lightning_sq.training.agreement import seconds_waited

HUNG = 70
"""Exit status, EX_SOFTWARE of sysexits.h."""
GRACE = 15.0
"""Seconds by which the process group's own time-out is later: it ends what waits anywhere else, and names nobody."""


def check_hang_seconds(seconds: float) -> None:
    """Raises: InputError for a time in which no step could be waited for."""
    if not seconds >= 1:
        raise InputError(f"hang_seconds={seconds:g} is not at least 1. 40 is usual.")


class Watchdog(Callback):
    """Ends this process once it has waited `seconds` for the others at the agreement of a step, and says for whom.

    A thread in each process beats in the process group's store. Who waits asks whose beat has stopped (a machine that
    is gone, a process that is stopped), and who beats but does not wait (it hangs in its own work). Nothing is done
    where there is only one process.

    Args:
        seconds: Longer than any process may need for a step's data and forward pass more than the others.
    """

    def __init__(self, seconds: float) -> None:
        check_hang_seconds(seconds)
        self.seconds = seconds
        self._over = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:  # only from now on: ranks may come to the start minutes apart
            c10d = torch.distributed.distributed_c10d
            set_timeout = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout
            set_timeout(timedelta(seconds=self.seconds + GRACE))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            threading.Thread(target=self._watch, args=(trainer,), daemon=True, name="watchdog").start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._over.set()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._over.set()

    def _watch(self, trainer: Trainer) -> None:
        rank, interval, beat = trainer.global_rank, min(2.0, self.seconds / 4), 0
        store = torch.distributed.distributed_c10d._get_default_store()
        while not self._over.wait(interval):
            beat += 1
            waits = seconds_waited()
            try:
                store.set(_key(rank), f"{beat} {int(waits > 0)} {socket.gethostname()}")
                if waits > self.seconds:
                    absent = missing(_beats(store, trainer.world_size), self._later_beats(store, trainer, 3 * interval))
            except Exception as error:  # the store is in the first process: it is the one that is gone
                if waits <= self.seconds:
                    continue
                absent = [f"process 0 does not answer ({type(error).__name__})"]
            if waits > self.seconds:
                self._end(trainer, absent)

    def _later_beats(self, store: torch.distributed.Store, trainer: Trainer, seconds: float) -> dict[int, list[str]]:
        self._over.wait(seconds)
        return _beats(store, trainer.world_size)

    def _end(self, trainer: Trainer, absent: list[str]) -> None:
        if self._over.is_set() or not seconds_waited():
            return
        print(
            f"process {trainer.global_rank} of {trainer.world_size} on {socket.gethostname()} has waited "
            f"{seconds_waited():.0f} s at step {trainer.global_step} and ends the run: {'; '.join(absent)}. "
            f"--hang_seconds {self.seconds:g} is how long it waits.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(HUNG)


def missing(earlier: dict[int, list[str]], later: dict[int, list[str]]) -> list[str]:
    """Who keeps the others waiting, from two looks at everybody's (beat, whether it waits, host)."""
    silent = [rank for rank in later if later[rank][0] == earlier[rank][0]]
    working = [rank for rank in later if rank not in silent and later[rank][1] == "0"]
    found = [f"process {rank} on {later[rank][2]} shows no sign of life" for rank in silent]
    found += [f"process {rank} on {later[rank][2]} is alive and does not come" for rank in working]
    return found or ["every process waits"]


def _key(rank: int) -> str:
    return f"lightning_sq/beat/{rank}"


def _beats(store: torch.distributed.Store, world_size: int) -> dict[int, list[str]]:
    keys = {rank: _key(rank) for rank in range(world_size)}
    return {
        rank: store.get(key).decode().split(" ", 2) if store.check([key]) else ["0", "0", "an unknown host"]
        for rank, key in keys.items()
    }
