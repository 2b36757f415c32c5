"""What is proven of all validation images, and what is found to be wrong: cheap enough that it is never a sample."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sq.attacks import BranchAndBound, MixedInteger, Prover
from lightning_sq.data.crop import RandomShift
from lightning_sq.data.index import load_index
from lightning_sq.data.loader import Dataset
from lightning_sq.data.memory import decode_once
from lightning_sq.errors import InputError
from lightning_sq.evaluation.found import share_of
from lightning_sq.models import PixelClassifier
from lightning_sq.ops.precision import full_precision
from lightning_sq.paths import write_whole
from lightning_sq.release import load
from lightning_sq.reproduction.runs import TRAINED, Run
from lightning_sq.types import parse_epsilon
from lightning_sq.verification.interval_network import certified
from lightning_sq.words import counted

PROVEN = "proven.json"
PROVER_VERSION = 2
"""Goes up with each change by which less is proven, or more found to be wrong: older proofs are made again."""
BATCH_SIZE = 500
MAX_BOXES = 200
"""Of branch and bound, for an image: under a minute for all of MNIST. More take longer, and prove little more."""

HOPE = 0.01
"""Branch and bound is left out where interval bounds prove less than this share: it would give up everywhere."""
MOST_LEFT = 0.04
"""And the solver of mixed-integer programs where it leaves more than this share open."""
SOLVER = MixedInteger(max_seconds=30.0)
"""Where bounds are nearly tight it needs a small part of that; what is continuous takes longer."""
FEW = 16
"""Images between two words about how far the solver is."""


@dataclass(frozen=True)
class Proof:
    """Shares of all validation images, in [0, 1]; what is neither proven nor wrong is not known.

    Args:
        bounds: Proven by interval bounds of the whole ball.
        proven: By these, by branch and bound, or by mixed-integer programming.
        wrong: Misclassified as they are, or somewhere in the ball where one of these looked.
        max_boxes: Of branch and bound; 0 if it was not asked, or `bounds` is below `HOPE`.
        proven_by_boxes: Without mixed-integer programming; None if that was not asked (branch and bound left more than
            `MOST_LEFT` open), has no program for the network, or is not installed.
        wrong_by_boxes: The same.
    """

    bounds: float
    proven: float
    wrong: float
    max_boxes: int
    proven_by_boxes: float | None = None
    wrong_by_boxes: float | None = None


def prove(
    run: Run,
    data: Path,
    epsilon: str,
    *,
    max_boxes: int = MAX_BOXES,
    tell: Callable[[str], None] = lambda note: None,
) -> Proof | None:
    """Of every image of `data/val`; None where the network has no interval bounds.

    Kept beside the run, and made again when the run was trained anew, when the solver was missing and is there now, and
    where it is of another `PROVER_VERSION`. With `max_boxes` 0 interval bounds have the last word, in seconds; else it
    takes minutes, of which `tell` hears from time to time.

    Raises: InputError if the images or, unless `can_prove`, the checkpoint cannot be read.
    """
    if known := _known(run, max_boxes):
        return None if known["proof"] is None else Proof(**known["proof"])
    model, radius = load(run.checkpoint), parse_epsilon(epsilon)
    images, labels = _decoded(data / "val", model.config.image_size, model.config.num_channels)
    try:
        with full_precision():
            proof = _prove(model, images, labels, radius, max_boxes, tell)
    except InputError:
        proof = None
    content = {"made_of": _made_of(run, max_boxes), "proof": None if proof is None else asdict(proof)}
    write_whole(run.folder / PROVEN, json.dumps(content) + "\n")
    return proof


def can_prove(run: Run, *, max_boxes: int = MAX_BOXES) -> bool:
    """Whether the checkpoint of a run that was trained is there yet, or what `prove` has kept of it."""
    return run.checkpoint.exists() or _known(run, max_boxes) is not None


def _known(run: Run, max_boxes: int) -> dict[str, Any] | None:
    """What is kept beside the run, if it holds yet; what was proven with a solver does without one too."""
    path = run.folder / PROVEN
    known = json.loads(path.read_text()) if path.exists() else {}
    made_of = _made_of(run, max_boxes)
    in_full = {key: value for key, value in made_of.items() if key != "solver"}
    return known if known.get("made_of") in (in_full, made_of) else None


def _made_of(run: Run, max_boxes: int) -> dict[str, Any]:
    trained = (run.folder / TRAINED).read_text()
    made_of = {"trained": trained, "asked": [max_boxes, asdict(SOLVER)], "prover": PROVER_VERSION}
    return made_of if find_spec("highspy") else made_of | {"solver": "not installed"}


def _prove(
    model: PixelClassifier,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    max_boxes: int,
    tell: Callable[[str], None],
) -> Proof:
    by_bounds, wrong_as_they_are = [], []
    for x, y in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        pixels = x.float() / 255
        by_bounds.append(certified(model, pixels, y, epsilon))
        with torch.no_grad():
            wrong_as_they_are.append(model(pixels).argmax(1) != y)
    proven, wrong = torch.cat(by_bounds), torch.cat(wrong_as_they_are)
    bounds = share_of(proven)
    if not max_boxes or bounds < HOPE:
        return Proof(bounds, bounds, share_of(wrong), 0)

    def settle(attack: Prover, title: str, batch_size: int) -> None:
        todo = torch.nonzero(~proven & ~wrong)[:, 0]
        for done, rows in enumerate(todo.split(batch_size)):
            tell(f"{title}, {counted(len(todo) - done * batch_size, 'image')} left")
            pixels = images[rows].float() / 255
            with torch.no_grad():
                settled = attack(model, pixels, labels[rows], (), epsilon)
            proven[rows] = settled.proven
            wrong[rows] = (settled.images != pixels).flatten(1).any(1)

    settle(BranchAndBound(max_boxes), "branch and bound", BATCH_SIZE)
    by_boxes = share_of(proven), share_of(wrong)
    if 1 - sum(by_boxes) > MOST_LEFT:
        return Proof(bounds, *by_boxes, max_boxes)
    try:
        settle(SOLVER, "integer programs", FEW)
    except InputError:
        return Proof(bounds, *by_boxes, max_boxes)
    return Proof(bounds, share_of(proven), share_of(wrong), max_boxes, *by_boxes)


@cache
def _decoded(folder: Path, image_size: int, channels: int) -> tuple[Tensor, Tensor]:
    index = load_index(folder)
    dataset = Dataset(index, RandomShift(), image_size, channels=channels)
    return decode_once(dataset, num_threads=torch.get_num_threads()), torch.from_numpy(index.labels)
