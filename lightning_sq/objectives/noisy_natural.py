"""The paper's objective: natural samples with noise, and nothing adversarial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_sq.errors import InputError
from lightning_sq.layers import PixelNoise
from lightning_sq.objectives.base import Objective, running_statistics_kept
from lightning_sq.ops.noise import NoiseKind, NoisePattern


class NoisyNatural(Objective):
    """E CE(f(clip(x + n)), y), n noise: behind a quantizer the paper's stand-in for CE + eps ||grad_x CE||_1.

    With `select="hardest"` each image is trained on that of `num_draws` draws which has the largest loss. Only forward
    passes choose it, there is no gradient with respect to the input: these are still noisy natural samples.

    Args:
        noise: "uniform" in [-epsilon, epsilon], "rademacher" (+-epsilon) or "gaussian" (standard deviation epsilon).
        epsilon: Size of the noise in units of the full pixel range, such as 8/255.
        pattern: How the pixels of an image hang together; see `correlated_noise`.
        scales: Cells along a side of the image, for the patterns that have some.
        num_draws: Noisy copies of an image in one step.
        select: "mean" trains on all of them, "hardest" on the worst.
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
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        if num_draws < 1:
            raise InputError(f"num_draws={num_draws} is not at least 1.")
        if select not in ("mean", "hardest"):
            raise InputError(f"select={select!r} is not one of mean, hardest.")
        self.noise = PixelNoise(noise, epsilon, pattern, scales)
        self.num_draws = num_draws
        self.select = select

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
        if self.num_draws == 1:
            return super().forward(model, images, labels)
        if self.select == "hardest":
            logits = model(self.hardest(model, images, labels))
            return self.loss(logits, labels), logits
        draws = [model(self.perturb(images)) for _ in range(self.num_draws)]
        return torch.stack([self.loss(logits, labels) for logits in draws]).mean(), draws[-1]

    def hardest(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """For each image the draw with the largest cross-entropy; running statistics see the choice alone."""
        worst, largest = images, torch.full((len(images),), float("-inf"), device=images.device)
        with torch.no_grad(), running_statistics_kept(model):
            for _ in range(self.num_draws):
                noisy = self.perturb(images)
                losses = cross_entropy(model(noisy).float(), labels, reduction="none")
                harder = losses > largest
                worst = torch.where(harder.view(-1, 1, 1, 1), noisy, worst)
                largest = torch.maximum(losses, largest)
        return worst
