"""What is proven of all validation images, and what is found to be wrong: cheap enough that it is never a sample."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lightning_sq.attacks import BranchAndBound
from lightning_sq.data.crop import RandomShift
from lightning_sq.data.index import load_index
from lightning_sq.data.loader import Dataset
from lightning_sq.data.memory import decode_once
from lightning_sq.errors import InputError
from lightning_sq.layers.interval_network import certified
from lightning_sq.models import PixelClassifier
from lightning_sq.paths import write_whole
from lightning_sq.release import load
from lightning_sq.reproduction.runs import TRAINED, Run
from lightning_sq.types import parse_epsilon

PROVEN = "proven.json"
BATCH_SIZE = 500
MAX_BOXES = 200
"""Of branch and bound, for an image: under a minute for all of MNIST. More take longer, and prove little more."""

HOPE = 0.01
"""Branch and bound is left out where interval bounds prove less than this share: it would give up everywhere."""


@dataclass(frozen=True)
class Proof:
    """Shares of all validation images, in [0, 1]; what is neither proven nor wrong is not known.

    Args:
        bounds: Proven by interval bounds of the whole ball.
        proven: By these, or by branch and bound.
        wrong: Misclassified as they are, or somewhere in the ball where branch and bound looked.
        max_boxes: Of branch and bound; 0 if it was not asked, or `bounds` is below `HOPE`.
    """

    bounds: float
    proven: float
    wrong: float
    max_boxes: int


def prove(run: Run, data: Path, epsilon: str, *, max_boxes: int = MAX_BOXES) -> Proof | None:
    """Of every image of `data/val`; None where the network has no interval bounds.

    Kept beside the run, and made again when the run was trained anew.
    """
    path = run.folder / PROVEN
    made_of = {"trained": (run.folder / TRAINED).read_text(), "asked": max_boxes}
    if path.exists() and (known := json.loads(path.read_text())).get("made_of") == made_of:
        return None if known["proof"] is None else Proof(**known["proof"])
    model = load(run.checkpoint)
    try:
        proof = _prove(model, *_decoded(data / "val", model.config.image_size, model.config.num_channels),
                       parse_epsilon(epsilon), max_boxes)  # fmt: skip
    except InputError:
        proof = None
    content = {"made_of": made_of, "proof": None if proof is None else asdict(proof)}
    write_whole(path, json.dumps(content) + "\n")
    return proof


def _prove(model: PixelClassifier, images: Tensor, labels: Tensor, epsilon: float, max_boxes: int) -> Proof:
    by_bounds, wrong = [], []
    for x, y in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        pixels = x.float() / 255
        by_bounds.append(certified(model, pixels, y, epsilon))
        with torch.no_grad():
            wrong.append(model(pixels).argmax(1) != y)
    proven, mistakes = torch.cat(by_bounds), torch.cat(wrong)
    bounds = proven.double().mean().item()
    max_boxes = max_boxes if bounds >= HOPE else 0
    if max_boxes:
        search = BranchAndBound(max_boxes)
        for rows in torch.nonzero(~proven & ~mistakes)[:, 0].split(BATCH_SIZE):
            pixels = images[rows].float() / 255
            with torch.no_grad():
                settled = search(model, pixels, labels[rows], (), epsilon)
            proven[rows] = settled.proven
            mistakes[rows] = (settled.images != pixels).flatten(1).any(1)
    return Proof(bounds, proven.double().mean().item(), mistakes.double().mean().item(), max_boxes)


@cache
def _decoded(folder: Path, image_size: int, channels: int) -> tuple[Tensor, Tensor]:
    index = load_index(folder)
    dataset = Dataset(index, RandomShift(), image_size, channels=channels)
    return decode_once(dataset, num_threads=torch.get_num_threads()), torch.from_numpy(index.labels)
