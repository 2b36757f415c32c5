"""metrics.csv is whole at every moment, however a run ends and goes on."""

from __future__ import annotations

import csv
import errno
import os
import threading
from pathlib import Path

import pytest

from lightning_sq.metrics_file import read_rows
from lightning_sq.training.resume.logs import make_loggers


class Killed(BaseException):
    """In the place of SIGKILL."""


@pytest.fixture
def logged(tmp_path) -> Path:
    """The file of a run that has logged three steps, the last one behind its checkpoint."""
    metrics, _ = make_loggers(tmp_path, None)
    for step in range(3):
        metrics.log_metrics({"loss": 1.5 - step}, step=step)
    metrics.save()
    return tmp_path / "logs/version_0/metrics.csv"


def resume(output: Path):
    return make_loggers(output, {"global_step": 2, "rows": 1, "row_to_come": {"loss": 0.5, "step": 1}})[0]


def die_at_the_next_rename(monkeypatch) -> None:
    def replace(*_):
        raise Killed

    monkeypatch.setattr(Path, "replace", replace)


def test_a_run_that_goes_on_keeps_the_rows_up_to_its_checkpoint_and_the_one_that_was_to_come(logged, tmp_path):
    metrics = resume(tmp_path)
    metrics.log_metrics({"loss": 0.25, "speed": 9.0}, step=2)  # a new column
    metrics.save()
    rows = [{"loss": "1.5", "step": "0"}, {"loss": "0.5", "step": "1"}]
    assert read_rows(logged) == [*rows, {"loss": "0.25", "speed": "9.0", "step": "2"}]


@pytest.mark.parametrize("column", ["loss", "speed"])
def test_on_a_full_disk_the_rows_are_kept_for_later_and_the_file_is_as_it_was(logged, tmp_path, monkeypatch, column):
    metrics = resume(tmp_path)
    before = logged.read_text()
    metrics.log_metrics({column: 9.0}, step=2)

    def half_a_row(writer, rows):
        writer.writer.writerow(["9"])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(csv.DictWriter, "writerows", half_a_row)
        metrics.save()
    assert logged.read_text() == before
    metrics.log_metrics({column: 10.0}, step=3)
    metrics.save()
    assert read_rows(logged)[2:] == [{column: "9.0", "step": "2"}, {column: "10.0", "step": "3"}]


def test_a_run_that_is_killed_while_it_goes_on_has_lost_no_row(logged, tmp_path, monkeypatch):
    before = logged.read_text()
    die_at_the_next_rename(monkeypatch)
    with pytest.raises(Killed):
        resume(tmp_path)
    assert logged.read_text() == before


def test_a_run_that_is_killed_at_a_new_column_has_lost_no_row(logged, tmp_path, monkeypatch):
    metrics = resume(tmp_path)
    before = logged.read_text()
    die_at_the_next_rename(monkeypatch)
    metrics.log_metrics({"speed": 9.0}, step=2)
    with pytest.raises(Killed):
        metrics.save()
    assert logged.read_text() == before


def test_a_new_run_begins_with_an_empty_file(logged, tmp_path):
    make_loggers(tmp_path, None)
    assert read_rows(logged) == []


def test_on_a_full_disk_the_curves_end_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    others = threading.enumerate()
    metrics, curves = make_loggers(tmp_path, None)
    curves.log_metrics({"loss": 1.0}, step=0)
    curves.save()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    monkeypatch.setattr("threading.excepthook", lambda arguments: None)  # TensorBoard's own thread dies of it
    with caplog.at_level("INFO"):
        for step in range(1, 5):
            for logger in (metrics, curves):
                logger.log_metrics({"loss": 1.0 - step}, step=step)
            curves.save()
        curves.finalize("success")
    said = f"The curves in {tmp_path}/logs/version_0 end here: No space left on device. The run goes on."
    assert caplog.messages == [said]
    for thread in set(threading.enumerate()).difference(others):
        thread.join(20)
    metrics.save()
    assert [row["step"] for row in read_rows(tmp_path / "logs/version_0/metrics.csv")] == ["1", "2", "3", "4"]


def test_a_value_that_is_no_number_is_refused_as_before(tmp_path):
    _, curves = make_loggers(tmp_path, None)
    with pytest.raises(ValueError, match="not supported"):
        curves.log_metrics({"loss": object()}, step=0)
