"""The share of all validation images that interval bounds certify: cheap, so it is never a sample."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lightning_sq.data.crop import RandomShift
from lightning_sq.data.index import load_index
from lightning_sq.data.loader import Dataset
from lightning_sq.data.memory import decode_once
from lightning_sq.errors import InputError
from lightning_sq.layers.interval_network import certified
from lightning_sq.paths import write_whole
from lightning_sq.release import load
from lightning_sq.reproduction.runs import TRAINED, Run
from lightning_sq.types import parse_epsilon

PROVEN = "proven.json"
BATCH_SIZE = 500


def proven_share(run: Run, data: Path, epsilon: str) -> float | None:
    """Certified accuracy on every image of `data/val`; None where the network has no interval bounds.

    Kept beside the run, and counted again when the run was trained anew.
    """
    path, trained = run.folder / PROVEN, (run.folder / TRAINED).read_text()
    if path.exists() and (known := json.loads(path.read_text()))["trained"] == trained:
        return known["share"]
    model = load(run.checkpoint)
    images, labels = _decoded(data / "val", model.config.image_size, model.config.num_channels)
    total = 0
    try:
        for x, y in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
            total += int(certified(model, x.float() / 255, y, parse_epsilon(epsilon)).sum())
        share: float | None = total / len(labels)
    except InputError:
        share = None
    write_whole(path, json.dumps({"trained": trained, "share": share}) + "\n")
    return share


@cache
def _decoded(folder: Path, image_size: int, channels: int) -> tuple[Tensor, Tensor]:
    index = load_index(folder)
    dataset = Dataset(index, RandomShift(), image_size, channels=channels)
    return decode_once(dataset, num_threads=torch.get_num_threads()), torch.from_numpy(index.labels)
