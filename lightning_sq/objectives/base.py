"""The interface of a training objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_sq.errors import InputError
from lightning_sq.layers import PixelNoise

HALF_SCALE = 2.0**12
"""The gradient of an image that is known for sure is 0 in float16 without it."""


def gradient_for_signs(total: Tensor, x: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Of `total` with respect to `x`, where only its signs matter.

    `HALF_SCALE` times it, and cut, where autocast computes in float16, whose smallest numbers are 6e-8.
    """
    if computes_in_half(x):
        return torch.autograd.grad(HALF_SCALE * total, x, retain_graph=retain_graph)[0].nan_to_num()
    return torch.autograd.grad(total, x, retain_graph=retain_graph)[0]


def computes_in_half(x: Tensor) -> bool:
    """Whether autocast computes in float16 where `x` lies."""
    kind = x.device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


class Objective(nn.Module):
    """Maps a model and a batch to the loss whose gradient is followed.

    A subclass has `perturb`; one that needs the model or the labels for it replaces `forward` instead. One that says
    `adds_noise` has `perturb_repeatably` too: validation is then made on clean images and on noisy ones. In a training
    loop of your own call `seed`: the random numbers have a stream of their own, which `torch.manual_seed` leaves alone.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
    """

    adds_noise = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.adds_noise and cls.perturb_repeatably is Objective.perturb_repeatably:
            raise InputError(f"{cls.__name__} says adds_noise = True, and lacks perturb_repeatably(images, indices).")

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise InputError(f"label_smoothing={label_smoothing} is not in [0, 1). 0.1 is usual.")
        self.label_smoothing = label_smoothing

    @property
    def stream(self) -> PixelNoise | None:
        """What all random numbers of the objective are drawn from; None for one that draws none."""
        return None

    def seed(self, seed: int, rank: int) -> None:
        """Start the stream."""
        if self.stream is not None:
            self.stream.seed(seed, rank)

    @property
    def random_state(self) -> Tensor | None:
        """Of this rank's stream, saved in the checkpoint; None where there is none."""
        return None if self.stream is None else self.stream.generator_state

    @random_state.setter
    def random_state(self, state: Tensor | None) -> None:
        if self.stream is not None:
            self.stream.generator_state = state

    def perturb(self, images: Tensor) -> Tensor:
        """The images as the model is trained on them: (B, C, H, W) in [0, 1], the same out."""
        raise AssertionError(f"{type(self).__name__} does not perturb without the model")

    def perturb_repeatably(self, images: Tensor, indices: Tensor) -> Tensor:
        """Like `perturb`, but the same for each dataset index (B,) at every call; asked for if `adds_noise`."""
        raise AssertionError(f"{type(self).__name__} adds no noise")

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with label smoothing, averaged over the batch."""
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def __call__(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """`forward`. Raises: InputError if an objective of somebody else gives something else than (loss, logits)."""
        found = super().__call__(*arguments, **options)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise InputError(
                f"{type(self).__name__} gives a {type(found).__name__}. Let its forward give (loss, logits): the "
                "scalar to minimise, and the logits (B, classes) that it was computed from."
            )
        loss = found[0]
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            form = f"tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(
                f"{type(self).__name__} gives a {form} as its loss. Let its forward give (loss, logits), the loss a "
                "tensor of one number, averaged over the batch."
            )
        return found

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, logits): the scalar to minimise, and the logits (B, classes) that it was computed from.

        Args:
            model: Pixels in [0, 1] to logits, in training mode; a `PixelClassifier` where the command line trains.
            images: (B, C, H, W) natural images in [0, 1].
            labels: (B,) int64.
        """
        if type(self).perturb is Objective.perturb:
            raise InputError(
                f"{type(self).__name__} has neither perturb nor forward. Write perturb(images), or a forward that "
                "gives (loss, logits)."
            )
        logits = model(self.perturb(images))
        return self.loss(logits, labels), logits


@contextmanager
def running_statistics_kept(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, batch normalisation normalises as ever, but leaves its running mean and variance as they are.

    For the forward passes besides the one on the images that are trained on, so that the statistics see each step
    once. Saving the buffers and writing them back would not do: autograd refuses a buffer that changed after its use.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    norms = [module for module in modules if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
