"""The paper's objective: natural samples with noise, and nothing adversarial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_sq.attacks.criteria import margin
from lightning_sq.errors import InputError
from lightning_sq.layers import PixelNoise
from lightning_sq.objectives.base import Objective, running_statistics_kept
from lightning_sq.objectives.margin_model import MarginModel
from lightning_sq.ops.noise import NoiseKind, NoisePattern
from lightning_sq.types import PIXEL_BOUNDS

SCATTER = 1.0
"""Of refined draws about where the margin grows, in terms of its root mean square; the first does not scatter."""


class NoisyNatural(Objective):
    """E CE(f(clip(x + n)), y), n noise: behind a quantizer the paper's stand-in for CE + eps ||grad_x CE||_1.

    With `select="hardest"` each image is trained on that of its draws which has the largest loss. Draws are of three
    kinds: random noise; differences to other images of the batch, n = clip(x' - x, -epsilon, epsilon), noise as natural
    as the samples; and refined ones, noise that leans where a linear model of the margin, fitted to the draws before,
    says that it grows (`MarginModel`). Only forward passes choose, there is no gradient with respect to the input:
    these are still noisy natural samples.

    Args:
        noise: "uniform" in [-epsilon, epsilon], "rademacher" (+-epsilon) or "gaussian" (standard deviation epsilon).
        epsilon: Size of the noise in units of the full pixel range, such as 8/255.
        pattern: How the pixels of an image hang together; see `correlated_noise`.
        scales: Cells along a side of the image, for the patterns that have some.
        num_draws: Noisy copies of an image in one step.
        select: "mean" trains on all of them, "hardest" on the worst.
        num_others: Further draws, towards as many other images of the batch; fewer in a batch of fewer. Only with
            "hardest".
        num_refined: Further draws, each refined from all before it; only with "hardest".
        label_smoothing: See `Objective`.
    """

    adds_noise = True

    def __init__(
        self,
        noise: NoiseKind = "uniform",
        epsilon: float | str = "8/255",
        pattern: NoisePattern = "pixel",
        scales: Sequence[int] = (2, 4, 8),
        num_draws: int = 1,
        select: Literal["mean", "hardest"] = "mean",
        num_others: int = 0,
        num_refined: int = 0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        if num_draws < 1:
            raise InputError(f"num_draws={num_draws} is not at least 1.")
        if select not in ("mean", "hardest"):
            raise InputError(f"select={select!r} is not one of mean, hardest.")
        for name, number in (("num_others", num_others), ("num_refined", num_refined)):
            if number and (number < 0 or select != "hardest"):
                raise InputError(f'{name}={number} with select={select!r}: it is a number of draws for "hardest".')
        if num_refined and num_draws + num_others < 2:
            raise InputError(f"num_refined={num_refined} with one other draw: refine at least 2, by num_others=1.")
        self.noise = PixelNoise(noise, epsilon, pattern, scales)
        self.num_draws = num_draws
        self.select = select
        self.num_others = num_others
        self.num_refined = num_refined

    def seed(self, seed: int, rank: int) -> None:
        self.noise.seed(seed, rank)

    @property
    def random_state(self) -> Tensor | None:
        return self.noise.generator_state

    @random_state.setter
    def random_state(self, state: Tensor | None) -> None:
        self.noise.generator_state = state

    def perturb(self, images: Tensor) -> Tensor:
        return self.noise(images)

    def perturb_repeatably(self, images: Tensor, indices: Tensor) -> Tensor:
        return self.noise.repeatable(images, indices)

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.num_draws + self.num_others == 1:
            return super().forward(model, images, labels)
        if self.select == "hardest":
            logits = model(self.hardest(model, images, labels))
            return self.loss(logits, labels), logits
        draws = [model(self.perturb(images)) for _ in range(self.num_draws)]
        return torch.stack([self.loss(logits, labels) for logits in draws]).mean(), draws[-1]

    def hardest(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """For each image the draw with the largest cross-entropy; running statistics see the choice alone."""
        worst, largest = images, torch.full((len(images),), float("-inf"), device=images.device)
        quantizer = getattr(model, "quantizer", None)
        network = model if quantizer is None else model.network
        margins = MarginModel(images, self.num_draws + self.num_others + self.num_refined) if self.num_refined else None
        with torch.no_grad(), running_statistics_kept(model):
            for noise in self._draws(images, margins):
                noisy = (images + noise).clamp_(*PIXEL_BOUNDS)
                seen = noisy if quantizer is None else quantizer(noisy)
                logits = network(seen).float()
                losses = cross_entropy(logits, labels, reduction="none")
                worst = torch.where((losses > largest).view(-1, 1, 1, 1), noisy, worst)
                largest = torch.maximum(losses, largest)
                if margins is not None:
                    margins.update(seen, margin(logits, labels))
        return worst

    def _draws(self, images: Tensor, margins: MarginModel | None) -> Iterator[Tensor]:
        """The noise of one draw after the other; the refined ones go by what `margins` was told meanwhile."""
        for _ in range(self.num_draws):
            yield self.noise.draw(images)
        if self.num_others:
            yield from self.noise.towards_others(images, self.num_others)
        if margins is not None:
            for k in range(self.num_refined):
                yield self.noise.leaning(margins.direction(), SCATTER if k else 0.0)
