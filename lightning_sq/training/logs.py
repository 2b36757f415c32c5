"""Logs that go on across restarts: one CSV file and one TensorBoard curve a run, with no gap and no step twice."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_sq.training.start import LOGS

VERSION = 0
STATE_KEY = "LogsGoOn"


class LogsGoOn(Callback):
    """Puts everything that is logged on the disk before each checkpoint, and notes in it how many rows that is."""

    state_key = STATE_KEY

    def __init__(self, output: Path) -> None:
        self.metrics_file = output / LOGS / f"version_{VERSION}" / "metrics.csv"
        self._rows = 0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            checkpoint["callbacks"].setdefault(STATE_KEY, {})["rows"] = len(read_rows(self.metrics_file))


def make_loggers(output: Path, resumed: dict[str, Any] | None) -> list[Logger]:
    """A CSV and a TensorBoard logger below `output`, behind what the run had logged when it was saved.

    Args:
        output: Folder of the run.
        resumed: The checkpoint's `global_step` and `rows`; None for a new run.
    """
    metrics = CSVLogger(output, LOGS, version=VERSION)
    purge = {} if resumed is None else {"purge_step": resumed["global_step"]}
    if resumed is not None:
        _keep(metrics, resumed["rows"])
    return [metrics, TensorBoardLogger(output, LOGS, version=VERSION, **purge)]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, each without the columns that are empty in it."""
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(stream)]


@rank_zero_only
def _keep(logger: CSVLogger, number: int | None) -> None:
    """Go on behind the first `number` rows; what was logged after the checkpoint will be logged again."""
    path = Path(logger.log_dir) / "metrics.csv"
    rows = read_rows(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
        logger.experiment.metrics.extend(rows if number is None else rows[:number])  # its writer empties the file
    logger.save()
