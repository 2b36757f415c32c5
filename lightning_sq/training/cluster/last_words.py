"""What is known of a run that dies: who stopped, of what, and at which step."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sq.errors import InputError, one_line
from lightning_sq.output_lock import open_of_run
from lightning_sq.run_files import STEP_FILE


class LastWords(Callback):
    """Notes the step that is being taken in a file, and names the process that raises.

    The file is a line that the first process overwrites in place: the step, and the seconds of all starts. After a
    process is killed it still says where, so a batch script can tell a run that always dies at the same step from one
    that was unlucky, and the time that was lost counts.

    Args:
        output: Folder of the run; the file is `.step` in it.
    """

    def __init__(self, output: Path) -> None:
        self.file = output / STEP_FILE
        self._number: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._number = open_of_run(self.file, os.O_WRONLY)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._number is None:
            return
        with suppress(OSError):  # a quota that is used up, a file server away for a moment: the run goes on without
            os.pwrite(self._number, f"{trainer.global_step:>12} {pl_module.run.elapsed:>12.1f}\n".encode(), 0)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SystemExit | InputError):
            return
        print(
            f"process {trainer.global_rank} of {trainer.world_size} on {socket.gethostname()} stops at step "
            f"{trainer.global_step}: {one_line(exception, named=True)}",
            file=sys.stderr,
            flush=True,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._number is not None:
            os.close(self._number)
            self._number = None


def seconds_noted(output: Path) -> float:
    """The seconds that the run in `output` had taken when its last step began; 0 for a new one."""
    try:
        return float((output / STEP_FILE).read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
