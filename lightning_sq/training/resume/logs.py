"""Logs that go on across restarts: one CSV file and one TensorBoard curve a run, with no gap and no step twice."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_sq.metrics_file import read_rows
from lightning_sq.paths import whole_file
from lightning_sq.run_files import LOGS, METRICS_FILE

VERSION = 0
STATE_KEY = "LogsGoOn"


class LogsGoOn(Callback):
    """Puts what is logged on the disk before each checkpoint, and notes in it how much that is.

    Lightning logs the values of a step, and those of an epoch, after the callbacks that save behind it. They are in the
    checkpoint, so that the run that goes on from it logs them in its place.
    """

    state_key = STATE_KEY

    def __init__(self, output: Path) -> None:
        self.metrics_file = output / LOGS / f"version_{VERSION}" / METRICS_FILE
        self._not_logged: Literal["step", "epoch"] | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        self._not_logged = "step"

    def on_train_epoch_end(self, *_: Any) -> None:
        self._not_logged = "epoch"

    def on_train_batch_start(self, *_: Any) -> None:
        self._not_logged = None

    on_validation_start = on_train_epoch_start = on_train_end = on_train_batch_start

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        row = self._row_to_come(trainer)  # in every process: a metric may be reduced
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            checkpoint["callbacks"][STATE_KEY] = {"rows": len(read_rows(self.metrics_file)), "row_to_come": row}

    def _row_to_come(self, trainer: Trainer) -> dict[str, float]:
        """What Lightning will log of the step, or of the epoch, that is over."""
        if self._not_logged is None or (
            self._not_logged == "step" and not trainer._logger_connector.should_update_logs
        ):
            return {}
        row = {key: float(value) for key, value in trainer._logger_connector.metrics["log"].items()}
        if not row:
            return {}
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - (self._not_logged == "epoch")
        return {"epoch": trainer.current_epoch} | row | {"step": step}


class _MetricsFile(ExperimentWriter):
    """CSVLogger's writer of metrics.csv, which is whole whenever the run dies.

    Lightning deletes the file of the run that goes on and writes it again, and empties it whenever there is a new
    column: killed in between, the run has lost its past.
    """

    def __init__(self, log_dir: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(log_dir)
        self.metrics_keys = sorted(set().union(*rows))
        self._write(rows, self.metrics_keys)

    def _check_log_dir_exists(self) -> None:
        """Deletes nothing."""

    def save(self) -> None:
        """Put the rows behind those of the file; on a disk that is full they are kept, and the run goes on."""
        if not self.metrics:
            return
        path, keys = Path(self.metrics_file_path), sorted({*self.metrics_keys, *set().union(*self.metrics)})
        try:
            if keys == self.metrics_keys and path.exists():
                self._append(self.metrics)
            else:
                self._write(read_rows(path) + self.metrics, keys)
        except OSError as error:
            rank_zero_info(f"{path} was not written: {error.strerror or error}. Its rows are kept; the run goes on.")
        else:
            self.metrics_keys, self.metrics = keys, []

    def _append(self, rows: list[dict[str, Any]]) -> None:
        path = Path(self.metrics_file_path)
        size = path.stat().st_size
        try:
            with path.open("a", newline="") as stream:
                csv.DictWriter(stream, fieldnames=self.metrics_keys).writerows(rows)
        except OSError:
            os.truncate(path, size)  # half a row would be read as one
            raise

    def _write(self, rows: list[dict[str, Any]], keys: list[str]) -> None:
        with whole_file(Path(self.metrics_file_path)) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=keys)
            writer.writeheader()
            writer.writerows(rows)


class _Curves(TensorBoardLogger):
    """TensorBoard's curves, which end where the disk is full, while the run goes on and metrics.csv keeps its rows.

    The thread that writes them dies of it, and whoever logs the next value is told by a ValueError.
    """

    def log_metrics(self, *args: Any, **options: Any) -> None:
        with self._as_far_as_the_disk_goes():
            super().log_metrics(*args, **options)

    def save(self) -> None:
        with self._as_far_as_the_disk_goes():
            super().save()

    def finalize(self, status: str) -> None:
        with self._as_far_as_the_disk_goes():
            super().finalize(status)

    @contextmanager
    def _as_far_as_the_disk_goes(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            if not isinstance(self._experiment, _DummyExperiment):
                rank_zero_info(f"The curves in {self.log_dir} end here: {cause.strerror or cause}. The run goes on.")
            self._experiment = _DummyExperiment()  # takes the rest


def make_loggers(output: Path, resumed: dict[str, Any] | None) -> list[Logger]:
    """A CSV and a TensorBoard logger below `output`, behind what the run had logged when it was saved.

    Args:
        output: Folder of the run.
        resumed: The checkpoint's `global_step`, and `rows` and `row_to_come` of `LogsGoOn`; None for a new run.
    """
    metrics = CSVLogger(output, LOGS, version=VERSION)
    if resumed is None:
        _begin(metrics, [])
        return [metrics, _Curves(output, LOGS, version=VERSION)]
    last_step = max(0, resumed["global_step"] - 1)
    curves = _Curves(output, LOGS, version=VERSION, purge_step=last_step)
    rows = _kept_rows(Path(metrics.log_dir) / METRICS_FILE, resumed)
    _begin(metrics, rows)
    _log_again(curves, rows, last_step)
    return [metrics, curves]


@rank_zero_only
def _begin(metrics: CSVLogger, rows: list[dict[str, Any]]) -> None:
    metrics._experiment = _MetricsFile(metrics.log_dir, rows)


def _kept_rows(path: Path, resumed: dict[str, Any]) -> list[dict[str, Any]]:
    """What was logged up to the checkpoint; what came after it will be logged again."""
    rows = read_rows(path)[: resumed["rows"]]
    return rows + ([resumed["row_to_come"]] if resumed.get("row_to_come") else [])


@rank_zero_only
def _log_again(curves: TensorBoardLogger, rows: list[dict[str, Any]], last_step: int) -> None:
    """What TensorBoard leaves out from the last step on."""
    for row in rows:
        if int(row["step"]) >= last_step:
            curves.log_metrics({k: float(v) for k, v in row.items() if k != "step"}, step=int(row["step"]))
