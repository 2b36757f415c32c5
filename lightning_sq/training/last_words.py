"""What is known of a run that dies: who stopped, of what, and at which step."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

STEP_FILE = ".step"


class LastWords(Callback):
    """Notes the step that is being taken in a file, and names the process that raises.

    The file is one number that the first process overwrites in place. After a process is killed it still says where, so
    a batch script can tell a run that always dies at the same step from one that was unlucky.

    Args:
        output: Folder of the run; the file is `.step` in it.
    """

    def __init__(self, output: Path) -> None:
        self.file = output / STEP_FILE
        self._number: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._number = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._number is not None:
            os.pwrite(self._number, f"{trainer.global_step:>12}\n".encode(), 0)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SystemExit):
            return
        what = " ".join(str(exception).split())[:300]
        print(
            f"process {trainer.global_rank} of {trainer.world_size} on {socket.gethostname()} stops at step "
            f"{trainer.global_step}: {type(exception).__name__}: {what}",
            file=sys.stderr,
            flush=True,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._number is not None:
            os.close(self._number)
            self._number = None
