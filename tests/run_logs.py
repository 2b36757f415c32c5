"""What a run leaves and what it wrote down on its way, for tests that compare two runs."""

from __future__ import annotations

from pathlib import Path

import torch

from lightning_sq.metrics_file import read_rows
from lightning_sq.run_files import ALL_METRICS

BY_THE_CLOCK = {"images_per_second", "seconds", "waiting_share", "reader_seconds", "decoder_seconds"}
"""Columns below train/ that no two runs share."""


def logged_rows(output: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without empty cells and without what depends on the clock."""
    (file,) = output.glob(ALL_METRICS)
    clock = {f"train/{name}" for name in BY_THE_CLOCK}
    return [{name: cell for name, cell in row.items() if name not in clock} for row in read_rows(file)]


def weights(output: Path) -> dict[str, torch.Tensor]:
    """Of its last checkpoint."""
    return torch.load(output / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """To the last bit."""
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def step_of(output: Path) -> int:
    """The step that is being taken; -1 before the first."""
    file = output / ".step"
    words = file.read_text().split() if file.exists() else []
    return int(words[0]) if words else -1
