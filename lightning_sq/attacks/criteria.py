"""What an attack maximises: a number an image, larger is worse for the model."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """CE(logits, y) of each image: (B, classes), (B,) -> (B,)."""
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y of each image; above 0 the image is misclassified.

    Unlike cross-entropy it has a gradient where the model is very sure (Carlini and Wagner 2017, arXiv 1608.04644).
    """
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - own[:, 0]


CRITERIA = {"cross_entropy": cross_entropy, "margin": margin}
