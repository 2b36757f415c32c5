"""metrics.csv, in which a training logs: its rows, and the curve of its epochs. Nothing heavy is imported for it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from lightning_sq.run_files import ALL_METRICS


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, each without the columns that are empty in it; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(stream)]


def training_curve(folder: Path, columns: Mapping[str, str]) -> list[dict[str, float]]:
    """What was logged after each epoch of a run: {our name: value}, over all of its log files.

    An epoch that lacks one of the columns is left out; of one that was begun again the latest values count.

    Args:
        folder: Of the run.
        columns: The log's name of each -> our name.
    """
    epochs: dict[int, dict[str, float]] = {}
    for file in sorted(folder.glob(ALL_METRICS), key=lambda path: path.stat().st_mtime):
        for row in read_rows(file):
            found = {ours: float(row[name]) for name, ours in columns.items() if name in row}
            if found and "epoch" in row:
                epochs.setdefault(int(row["epoch"]), {}).update(found)
    return [epochs[number] for number in sorted(epochs) if len(epochs[number]) == len(columns)]
