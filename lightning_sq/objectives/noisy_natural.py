"""The paper's objective: natural samples with noise, and nothing adversarial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.layers import PixelNoise
from lightning_sq.objectives.base import Objective
from lightning_sq.objectives.hardest_noise import HardestNoise
from lightning_sq.ops.noise import NoiseKind, NoisePattern


class NoisyNatural(Objective):
    """E CE(f(clip(x + n)), y), n noise: behind a quantizer the paper's stand-in for CE + eps ||grad_x CE||_1.

    With `select="hardest"` each image is trained on that of its draws which has the largest loss. Draws are of four
    kinds: random noise; differences to other images of the batch, n = clip(x' - x, -epsilon, epsilon), noise as natural
    as the samples; refined ones, noise that leans where a linear model of the margin, fitted to the draws before,
    says that it grows (`MarginModel`); and flips, the hardest so far with the opposite noise in one small patch
    (`FlippedPatches`). Only forward passes choose, there is no gradient with respect to the input: these are still
    noisy natural samples, though looked for as an attack that sees nothing but losses would.

    Args:
        noise: "uniform" in [-epsilon, epsilon], "rademacher" (+-epsilon) or "gaussian" (standard deviation epsilon).
        epsilon: Size of the noise in units of the full pixel range, such as 8/255.
        pattern: How the pixels of an image hang together; see `correlated_noise`.
        scales: Cells along a side of the image, for the patterns that have some.
        num_draws: Noisy copies of an image in one step.
        select: "mean" trains on all of them, "hardest" on the worst.
        num_others: Further draws, towards as many other images of the batch; fewer in a batch of fewer. Only with
            "hardest".
        num_refined: Further draws, refined from those of the passes before; only with "hardest".
        num_flips: Further draws after these, one pass each; only with "hardest".
        halve_after: After so many draws, a list of numbers, only that half of the images is searched on that has
            the larger loss so far: successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943), since images
            far from any mistake need no long search. Two are left in any case, and a pass takes several draws of each
            image that is left, as many images in all as the batch has. Only with "hardest".
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
        num_flips: int = 0,
        halve_after: Sequence[int] = (),
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        if num_draws < 1:
            raise InputError(f"num_draws={num_draws} is not at least 1.")
        if select not in ("mean", "hardest"):
            raise InputError(f"select={select!r} is not one of mean, hardest.")
        for name, given in (
            ("num_others", num_others),
            ("num_refined", num_refined),
            ("num_flips", num_flips),
            ("halve_after", halve_after),
        ):
            if given and select != "hardest":
                raise InputError(f'{name}={given} with select={select!r}: it is for the "hardest" of draws.')
        if min(num_others, num_refined, num_flips) < 0:
            raise InputError(f"{num_others=}, {num_refined=} and {num_flips=} have to be at least 0.")
        if num_refined and num_draws + num_others < 2:
            raise InputError(f"num_refined={num_refined} with one other draw: refine at least 2, by num_others=1.")
        last = num_draws + num_others + num_refined + num_flips - 1
        if not all(1 <= count <= last for count in halve_after):
            raise InputError(f"halve_after={list(halve_after)}: each is from 1 to {last}, a draw has to come after it.")
        self.noise = PixelNoise(noise, epsilon, pattern, scales)
        self.num_draws = num_draws
        self.select = select
        self.hardest = HardestNoise(self.noise, num_draws, num_others, num_refined, num_flips, tuple(halve_after))

    @property
    def stream(self) -> PixelNoise:
        return self.noise

    def perturb(self, images: Tensor) -> Tensor:
        return self.noise(images)

    def perturb_repeatably(self, images: Tensor, indices: Tensor) -> Tensor:
        return self.noise.repeatable(images, indices)

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.num_draws + self.hardest.num_others + self.hardest.num_flips == 1:
            return super().forward(model, images, labels)
        if self.select == "hardest":
            logits = model(self.hardest(model, images, labels))
            return self.loss(logits, labels), logits
        draws = [model(self.noise(images, turn)) for turn in range(self.num_draws)]
        return torch.stack([self.loss(logits, labels) for logits in draws]).mean(), draws[-1]
