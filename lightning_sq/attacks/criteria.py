"""What an attack maximises: a number an image, larger is worse for the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lightning_sq.errors import InputError
from lightning_sq.ops.smallest import SMALLEST

Criterion = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """CE(logits, y) of each image: (B, classes), (B,) -> (B,)."""
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y of each image; above 0 the image is misclassified.

    Unlike cross-entropy it has a gradient where the model is very sure (Carlini and Wagner 2017, arXiv 1608.04644).
    """
    own = logits.gather(1, labels[:, None])
    return _without_the_label(logits, labels).amax(1) - own[:, 0]


def fooled(margins: Tensor) -> Tensor:
    """Which images are misclassified, by their margins. One that is no number counts: `checks` is to see that image."""
    return ~(margins <= 0)


def rises(new: Tensor, old: Tensor) -> Tensor:
    """Which margins are better for an attack than `old`. No number is better than one that is none: see `fooled`."""
    return ~(new <= old) & ~old.isnan()


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """margin / (z_(1) - z_(3)), z_(i) the i-th largest logit: the same however the logits are scaled.

    Difference of logits ratio, Croce and Hein 2020 (arXiv 2003.01690). Raises: InputError for less than 3 classes.
    """
    if logits.shape[1] < 3:
        raise InputError(f"criterion=dlr needs 3 classes, the model has {logits.shape[1]}. Take margin.")
    ordered = logits.topk(3, dim=1).values
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + SMALLEST)


CRITERIA: dict[str, Criterion] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}


def towards(targets: Tensor) -> Criterion:
    """z_t - z_y, for a target class t of each image (B,): the margin against one class only."""

    def targeted_margin(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]

    return targeted_margin


def likeliest_wrong_class(logits: Tensor, labels: Tensor, place: int) -> Tensor:
    """The class in `place` (0 the likeliest) among all but the label: (B,) int64. Counts on from the first again."""
    return torch.argsort(_without_the_label(logits, labels), dim=1, descending=True)[:, place % (logits.shape[1] - 1)]


def _without_the_label(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], float("-inf"))
