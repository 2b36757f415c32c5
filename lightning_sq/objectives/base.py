"""The interface of a training objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sq.errors import InputError


class Objective(nn.Module, ABC):
    """Maps a model and a batch to the loss whose gradient is followed.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
    """

    adds_noise = False

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise InputError(f"label_smoothing={label_smoothing} is not in [0, 1). 0.1 is usual.")
        self.label_smoothing = label_smoothing

    def seed(self, seed: int, rank: int) -> None:
        """Start the objective's own random streams; an objective without randomness has none."""

    @property
    def random_state(self) -> Tensor | None:
        """This rank's random state, saved in the checkpoint; None where there is none."""
        return None

    @random_state.setter
    def random_state(self, state: Tensor | None) -> None:
        """Put back what `random_state` gave."""

    @abstractmethod
    def perturb(self, images: Tensor) -> Tensor:
        """The images as the model is trained on them: (B, 3, H, W) in [0, 1], the same out."""

    def perturb_repeatably(self, images: Tensor, indices: Tensor) -> Tensor:
        """Like `perturb`, but the same for each dataset index (B,) at every call; asked for if `adds_noise`."""
        raise AssertionError(f"{type(self).__name__} adds no noise")

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with label smoothing, averaged over the batch."""
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, logits): the scalar to minimise, and the logits (B, classes) that it was computed from.

        Args:
            model: Pixels in [0, 1] to logits, in training mode; a `PixelClassifier` where the command line trains.
            images: (B, 3, H, W) natural images in [0, 1].
            labels: (B,) int64.
        """
        logits = model(self.perturb(images))
        return self.loss(logits, labels), logits
