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
    """Puts what is logged on the disk before each checkpoint, and notes in it how much that is.

    Lightning logs a step's values after the callbacks that save behind that step. Those values are in the checkpoint,
    so that the run that goes on from it logs them in its place.
    """

    state_key = STATE_KEY

    def __init__(self, output: Path) -> None:
        self.metrics_file = output / LOGS / f"version_{VERSION}" / "metrics.csv"
        self._step_not_logged = False

    def on_train_batch_end(self, *_: Any) -> None:
        self._step_not_logged = True

    def on_train_batch_start(self, *_: Any) -> None:
        self._step_not_logged = False

    on_validation_start = on_train_epoch_end = on_train_batch_start

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        row = _row_to_come(trainer) if self._step_not_logged else {}  # in every process: a metric may be reduced
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            checkpoint["callbacks"][STATE_KEY] = {"rows": len(read_rows(self.metrics_file)), "row_to_come": row}


def _row_to_come(trainer: Trainer) -> dict[str, float]:
    """What Lightning will log of the step that has just been taken."""
    if not trainer._logger_connector.should_update_logs:
        return {}
    values = trainer._logger_connector.metrics["log"]
    row = {key: float(value) for key, value in values.items()}
    if not row:
        return {}
    return {"epoch": trainer.current_epoch} | row | {"step": trainer.fit_loop.epoch_loop._batches_that_stepped}


def make_loggers(output: Path, resumed: dict[str, Any] | None) -> list[Logger]:
    """A CSV and a TensorBoard logger below `output`, behind what the run had logged when it was saved.

    Args:
        output: Folder of the run.
        resumed: The checkpoint's `global_step`, and `rows` and `row_to_come` of `LogsGoOn`; None for a new run.
    """
    metrics = CSVLogger(output, LOGS, version=VERSION)
    if resumed is None:
        return [metrics, TensorBoardLogger(output, LOGS, version=VERSION)]
    last_step = max(0, resumed["global_step"] - 1)
    curves = TensorBoardLogger(output, LOGS, version=VERSION, purge_step=last_step)
    rows = _kept_rows(Path(metrics.log_dir) / "metrics.csv", resumed)
    _log_again(metrics, curves, rows, last_step)
    return [metrics, curves]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, each without the columns that are empty in it."""
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(stream)]


def _kept_rows(path: Path, resumed: dict[str, Any]) -> list[dict[str, Any]]:
    """What was logged up to the checkpoint; what came after it will be logged again."""
    rows = read_rows(path)[: resumed["rows"]]
    return rows + ([resumed["row_to_come"]] if resumed.get("row_to_come") else [])


@rank_zero_only
def _log_again(metrics: CSVLogger, curves: TensorBoardLogger, rows: list[dict[str, Any]], last_step: int) -> None:
    """Write all of the CSV file anew, and what TensorBoard leaves out from the last step on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
        metrics.experiment.metrics.extend(rows)  # its writer empties the file
    metrics.save()
    for row in rows:
        if int(row["step"]) >= last_step:
            curves.log_metrics({k: float(v) for k, v in row.items() if k != "step"}, step=int(row["step"]))
