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
FEWEST = 2
"""Images that halving leaves: batch normalisation that trains refuses a single one."""


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
        halve_after: After so many draws, one number or several, only that half of the images is searched on that has
            the larger loss so far: successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943), since images
            far from any mistake need no long search. Two are left in any case. Only with "hardest".
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
        halve_after: Sequence[int] = (),
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        if num_draws < 1:
            raise InputError(f"num_draws={num_draws} is not at least 1.")
        if select not in ("mean", "hardest"):
            raise InputError(f"select={select!r} is not one of mean, hardest.")
        for name, given in (("num_others", num_others), ("num_refined", num_refined), ("halve_after", halve_after)):
            if given and select != "hardest":
                raise InputError(f'{name}={given} with select={select!r}: it is for the "hardest" of draws.')
        if min(num_others, num_refined) < 0:
            raise InputError(f"num_others={num_others} and num_refined={num_refined} have to be at least 0.")
        if num_refined and num_draws + num_others < 2:
            raise InputError(f"num_refined={num_refined} with one other draw: refine at least 2, by num_others=1.")
        last = num_draws + num_others + num_refined - 1
        if not all(1 <= count <= last for count in halve_after):
            raise InputError(f"halve_after={list(halve_after)}: each is from 1 to {last}, a draw has to come after it.")
        self.noise = PixelNoise(noise, epsilon, pattern, scales)
        self.num_draws = num_draws
        self.select = select
        self.num_others = num_others
        self.num_refined = num_refined
        self.halve_after = tuple(halve_after)

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
        quantizer = getattr(model, "quantizer", None)
        network = model if quantizer is None else model.network
        margins = MarginModel() if self.num_refined else None
        found = images.clone()
        places = torch.arange(len(images), device=images.device)
        natural, worst, largest = images, images, images.new_full((len(images),), float("-inf"), dtype=torch.float32)
        with torch.no_grad(), running_statistics_kept(model):
            for count, draw in enumerate(self._draws(images, margins)):
                if count in self.halve_after:
                    found[places] = worst
                    num_left = min(len(largest), max(FEWEST, (len(largest) + 1) // 2))
                    half = largest.topk(num_left, sorted=False).indices
                    places, natural, worst, largest = places[half], natural[half], worst[half], largest[half]
                    labels = labels[half]
                    if margins is not None:
                        margins.keep(half)
                noisy = (natural + draw(places)).clamp_(*PIXEL_BOUNDS)
                seen = noisy if quantizer is None else quantizer(noisy)
                logits = network(seen).float()
                losses = cross_entropy(logits, labels, reduction="none")
                worst = torch.where((losses > largest).view(-1, 1, 1, 1), noisy, worst)
                largest = torch.maximum(losses, largest)
                if margins is not None:
                    margins.update(seen, margin(logits, labels))
        found[places] = worst
        return found

    def _draws(self, images: Tensor, margins: MarginModel | None) -> Iterator[Callable[[Tensor], Tensor]]:
        """One draw after the other: places in the batch (K,) -> their noise (K, C, H, W).

        The refined ones go by what `margins` was told meanwhile, of the images at these places.
        """
        for _ in range(self.num_draws):
            yield lambda places: self.noise.draw(images[places])
        if self.num_others:
            yield from self.noise.towards_others(images, self.num_others)
        if margins is not None:
            for k in range(self.num_refined):
                scatter = SCATTER if k else 0.0
                yield lambda places, scatter=scatter: self.noise.leaning(margins.direction(), scatter)
