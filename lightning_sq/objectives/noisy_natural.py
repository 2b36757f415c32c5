"""The paper's objective: natural samples with noise, and nothing adversarial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_sq.attacks.criteria import margin
from lightning_sq.errors import InputError
from lightning_sq.layers import PixelNoise
from lightning_sq.objectives.base import Objective, running_statistics_kept
from lightning_sq.ops.noise import NoiseKind, NoisePattern
from lightning_sq.types import PIXEL_BOUNDS


class NoisyNatural(Objective):
    """E CE(f(clip(x + n)), y), n noise: behind a quantizer the paper's stand-in for CE + eps ||grad_x CE||_1.

    With `select="hardest"` each image is trained on that of its draws which has the largest loss. With `num_refined` a
    second generation of draws joins them, that goes where the first became harder: with m_i the margin by which draw
    n_i is misclassified, g = sum_i (m_i - mean m) n_i estimates the direction in which the margin grows (evolution
    strategies, Salimans et al. 2017, arXiv 1703.03864; as an attack Ilyas et al. 2018, arXiv 1804.08598), and a refined
    draw is noise of the same kind whose pixels lean that way. Only forward passes choose, there is no gradient with
    respect to the input: these are still noisy natural samples.

    Args:
        noise: "uniform" in [-epsilon, epsilon], "rademacher" (+-epsilon) or "gaussian" (standard deviation epsilon).
        epsilon: Size of the noise in units of the full pixel range, such as 8/255.
        pattern: How the pixels of an image hang together; see `correlated_noise`.
        scales: Cells along a side of the image, for the patterns that have some.
        num_draws: Noisy copies of an image in one step.
        select: "mean" trains on all of them, "hardest" on the worst.
        num_refined: Draws of the second generation; only with "hardest", and the draws of the first then come in pairs
            n, -n, which makes the estimate better.
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
        num_refined: int = 0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        if num_draws < 1:
            raise InputError(f"num_draws={num_draws} is not at least 1.")
        if select not in ("mean", "hardest"):
            raise InputError(f"select={select!r} is not one of mean, hardest.")
        if num_refined and (num_refined < 0 or select != "hardest" or num_draws < 2):
            raise InputError(
                f"num_refined={num_refined} with num_draws={num_draws}, select={select!r}: draws are refined from at "
                'least 2 others, with select="hardest".'
            )
        self.noise = PixelNoise(noise, epsilon, pattern, scales)
        self.num_draws = num_draws
        self.select = select
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
        harder_where = _GrowthOfTheMargin()
        with torch.no_grad(), running_statistics_kept(model):
            noise = images
            for k in range(self.num_draws + self.num_refined):
                noise = self._next(noise, images, k, harder_where)
                noisy = (images + noise).clamp_(*PIXEL_BOUNDS)
                logits = model(noisy).float()
                losses = cross_entropy(logits, labels, reduction="none")
                harder = losses > largest
                worst = torch.where(harder.view(-1, 1, 1, 1), noisy, worst)
                largest = torch.maximum(losses, largest)
                if self.num_refined:
                    harder_where.update(noise, margin(logits, labels))
        return worst

    def _next(self, last: Tensor, images: Tensor, k: int, harder_where: _GrowthOfTheMargin) -> Tensor:
        """The noise of draw k; the first refined one goes just where the margin grows, the others scatter about it."""
        if k >= self.num_draws:
            return self.noise.leaning(harder_where.direction(), scatter=0.0 if k == self.num_draws else 0.5)
        return -last if self.num_refined and k % 2 else self.noise.draw(images)


class _GrowthOfTheMargin:
    """g = sum_i (m_i - mean m) n_i over the draws seen so far, in two running sums."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None  # of m, of n, of m n

    def update(self, noise: Tensor, margins: Tensor) -> None:
        """A draw n (B, C, H, W) with its margins m (B,)."""
        m = margins.view(-1, 1, 1, 1)
        new = (m, noise, m * noise)
        self._sums = new if self._sums is None else tuple(a + b for a, b in zip(self._sums, new, strict=True))
        self._count += 1

    def direction(self) -> Tensor:
        """g (B, C, H, W), divided by its root mean square over each image; 0 where it is 0."""
        assert self._sums is not None
        margins, noise, products = self._sums
        growth = products - margins / self._count * noise
        scale = growth.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return growth / scale.clamp_min(torch.finfo(scale.dtype).tiny)
