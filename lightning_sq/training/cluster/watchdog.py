"""A run whose processes wait for one that does not come: ended in seconds, with its name."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sq.errors import InputError
from lightning_sq.process_group import in_process_group

HUNG = 70
"""Exit status, EX_SOFTWARE of sysexits.h."""
GRACE = 300.0
"""Seconds by which the process group's own time-out is later: it ends what waits anywhere else, and names nobody. The
others wait so while a large checkpoint is written to a slow disk."""
BUSY = 240.0
"""Seconds more that the first batch of a start may take, as its libraries and images come from a cold disk, and its
kernels are chosen; and that one which is between two batches is waited for, as a file server may be away for a moment.
Less than `GRACE`, or nobody would be named."""

OVER = "over"
"""The beat of a process whose training is over."""
BETWEEN, INSIDE = "between", "inside"
"""Two batches, and one: what a process says of itself besides."""


def check_hang_seconds(seconds: float) -> None:
    """Raises: InputError for a time in which no step could be waited for."""
    if not 1 <= seconds < math.inf:
        raise InputError(f"hang_seconds={seconds:g} is not a finite number of at least 1. 40 is usual.")


class Watchdog(Callback):
    """Ends this process once it has come no further for `seconds`, and says who keeps it.

    A thread in each process beats in the process group's store, with how many batches the process has begun, and
    whether it is inside one. Who is held up asks whose beat has stopped (a machine that is gone, a process that is
    stopped), and who beats but is behind (it hangs in its own work). Between two batches a process may be busy, with
    data or a checkpoint: there only a beat that has stopped ends it, and the others wait `BUSY` longer for it, as in
    the first batch. Nothing is done where there is only one process.

    Args:
        seconds: Longer than a batch may take.
    """

    def __init__(self, seconds: float) -> None:
        check_hang_seconds(seconds)
        self.seconds = seconds
        self._batches = 0
        self._since = time.monotonic()
        self._inside = False
        self._has_trained = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:  # only from now on: ranks may come to the start minutes apart
            c10d = torch.distributed.distributed_c10d
            set_timeout = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout
            set_timeout(timedelta(seconds=self.seconds + GRACE))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            self._comes_on(inside=False)
            self._beat(trainer, 0)
            self._thread = threading.Thread(target=self._watch, args=(trainer,), daemon=True, name="watchdog")
            self._thread.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._comes_on(inside=True)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        self._comes_on(inside=True)

    def on_train_batch_end(self, *_: Any) -> None:
        self._has_trained = True
        self._comes_on(inside=False)

    def on_validation_batch_end(self, *_: Any) -> None:
        self._comes_on(inside=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(5)
            with suppress(RuntimeError):  # the first process, and the store with it, may be gone already
                self._beat(trainer, OVER)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._over.set()

    def _comes_on(self, *, inside: bool) -> None:
        self._since, self._inside = time.monotonic(), inside
        self._batches += inside

    @property
    def _held_up(self) -> bool:
        return time.monotonic() - self._since > self.seconds

    def _may_be_busy(self, beats: dict[int, list[str]]) -> bool:
        """Whether it is no sign of a hang that a process which beats comes no further."""
        if not self._inside:
            return True
        waited_for = any(place == BETWEEN and int(begun) < self._batches for _, begun, place, _ in beats.values())
        longest = self.seconds + (BUSY if waited_for or not self._has_trained else 0)
        return time.monotonic() - self._since <= longest

    def _beat(self, trainer: Trainer, number: int | str) -> None:
        store = torch.distributed.distributed_c10d._get_default_store()
        place = INSIDE if self._inside else BETWEEN
        store.set(_key(trainer.global_rank), f"{number} {self._batches} {place} {socket.gethostname()}")

    def _watch(self, trainer: Trainer) -> None:
        """The thread."""
        interval, number = min(2.0, self.seconds / 4), 0
        store = torch.distributed.distributed_c10d._get_default_store()
        while not self._over.wait(interval):
            number += 1
            try:
                self._beat(trainer, number)
                if not self._held_up:
                    continue
                earlier = _beats(store, trainer.world_size)
                # who looks at the others goes on beating: of two that are held up each would take the other for dead
                for _ in range(4 if self._may_be_busy(earlier) else 2):
                    if self._over.wait(interval):
                        return
                    number += 1
                    self._beat(trainer, number)
                own, later = trainer.global_rank, _beats(store, trainer.world_size)
                absent = (silent if self._may_be_busy(later) else missing)(earlier, later, own=own)
            except Exception as error:
                if not in_process_group():
                    return  # this process has left it itself, see `leaving`
                # the store is in the first process: it is the one that is gone
                absent = [f"process 0 does not answer ({type(error).__name__})"]
            if self._held_up and absent and not self._over.is_set():
                self._end(trainer, absent)

    def _end(self, trainer: Trainer, absent: list[str]) -> None:
        print(
            f"process {trainer.global_rank} of {trainer.world_size} on {socket.gethostname()} is held up at step "
            f"{trainer.global_step} for more than --hang_seconds {self.seconds:g} and ends the run: "
            f"{'; '.join(absent)}.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(HUNG)


def silent(earlier: dict[int, list[str]], later: dict[int, list[str]], *, own: int) -> list[str]:
    """Whose beat has stopped, from two looks at everybody's (beat, batches begun, place, host)."""
    stopped = (rank for rank in later if rank != own and later[rank][0] == earlier[rank][0] != OVER)
    return [f"process {rank} on {later[rank][3]} shows no sign of life" for rank in stopped]


def missing(earlier: dict[int, list[str]], later: dict[int, list[str]], *, own: int) -> list[str]:
    """Who keeps process `own` waiting inside a batch: the silent ones, and who is alive and behind."""
    found = silent(earlier, later, own=own)
    furthest = max(int(batches) for _, batches, _, _ in later.values())
    for rank, (beat, batches, _, host) in later.items():
        if beat not in (earlier[rank][0], OVER) and int(batches) < furthest and rank != own:
            found.append(f"process {rank} on {host} is alive and does not come to batch {furthest}")
    return found or ["every process is inside the same batch"]


def _key(rank: int) -> str:
    return f"lightning_sq/beat/{rank}"


def _beats(store: torch.distributed.Store, world_size: int) -> dict[int, list[str]]:
    keys = {rank: _key(rank) for rank in range(world_size)}
    return {
        rank: store.get(key).decode().split(" ", 3) if store.check([key]) else ["0", "0", BETWEEN, "an unknown host"]
        for rank, key in keys.items()
    }
