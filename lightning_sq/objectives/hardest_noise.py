"""The hardest of many noisy copies of each image, looked for by forward passes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_sq.attacks.criteria import margin
from lightning_sq.attacks.front_end import parts_of
from lightning_sq.layers import PixelNoise
from lightning_sq.objectives.base import running_statistics_kept
from lightning_sq.objectives.margin_model import MarginModel
from lightning_sq.types import PIXEL_BOUNDS

SCATTER = 1.0
"""Of refined draws about where the margin grows, in terms of its root mean square; the first does not scatter."""
FEWEST = 2
"""Images that halving leaves: batch normalisation that trains refuses a single one."""

Draw = Callable[[Tensor], Tensor]
"""Places in the batch (K,) -> noise for the images there (K, C, H, W)."""


@dataclass(frozen=True)
class HardestNoise:
    """For each image, of all the draws that it gets, the one with the largest cross-entropy.

    First random draws, then those towards other images of the batch, then refined ones; see `NoisyNatural`, where the
    arguments are explained. A pass of the network takes about as many images as the batch has: where halving has left
    fewer, several draws of each. What refined draws go by is known before the pass.

    Args:
        noise: Draws it.
        num_draws: Random draws.
        num_others: Draws towards other images.
        num_refined: Refined draws.
        halve_after: Counts of draws after which the easier half is left as it is.
    """

    noise: PixelNoise
    num_draws: int
    num_others: int
    num_refined: int
    halve_after: tuple[int, ...]

    @torch.no_grad()
    def __call__(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W), (B,) -> the noisy images (B, C, H, W); the model's running statistics stay as they are."""
        quantizer, network = parts_of(model)
        margins = MarginModel()
        draws = self._draws(images, margins)
        found, left, done = images.clone(), _Hardest.of(images, labels), 0
        with running_statistics_kept(model):
            while done < len(draws):
                if done in self.halve_after:
                    found[left.places] = left.noisy
                    half = left.harder_half()
                    left = left.at(half)
                    margins.keep(half)
                count = min(self._next_stop(done, len(draws)) - done, max(1, len(images) // len(left.places)))
                noise = torch.stack([draw(left.places) for draw in draws[done : done + count]])
                noisy = (left.natural + noise).clamp_(*PIXEL_BOUNDS)
                seen = noisy if quantizer is None else quantizer(noisy)
                logits, same_labels = network(seen.flatten(0, 1)).float(), left.labels.repeat(count)
                left.compare(noisy, cross_entropy(logits, same_labels, reduction="none").view(count, -1))
                if self.num_refined:
                    margins.update(seen, margin(logits, same_labels).view(count, -1))
                done += count
        found[left.places] = left.noisy
        return found

    def _draws(self, images: Tensor, margins: MarginModel) -> list[Draw]:
        """In their order; the refined ones go by what `margins` was told meanwhile of the images at these places.

        Of several patterns an image gets another one with every random draw.
        """
        draws: list[Draw] = [
            lambda places, turn=turn: self.noise.draw(images[places], turn) for turn in range(self.num_draws)
        ]
        if self.num_others:
            draws += self.noise.towards_others(images, self.num_others)
        for k in range(self.num_refined):
            scatter = SCATTER if k else 0.0
            draws.append(lambda places, scatter=scatter: self.noise.leaning(margins.direction(), scatter))
        return draws

    def _next_stop(self, done: int, in_all: int) -> int:
        """Before which draw the next pass has to end: to halve, or to learn where refined ones are to go."""
        return min(stop for stop in (*self.halve_after, in_all - self.num_refined, in_all) if stop > done)


@dataclass
class _Hardest:
    """Images that are searched on, and the hardest noisy copy of each so far.

    Args:
        places: (K,) in the batch.
        natural: (K, C, H, W).
        labels: (K,).
        noisy: (K, C, H, W).
        losses: (K,) of the noisy copies.
    """

    places: Tensor
    natural: Tensor
    labels: Tensor
    noisy: Tensor
    losses: Tensor

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> _Hardest:
        """All images of a batch, before the first draw."""
        losses = torch.full((len(images),), float("-inf"), device=images.device)
        return cls(torch.arange(len(images), device=images.device), images, labels, images, losses)

    def harder_half(self) -> Tensor:
        """Where the losses are largest: half of the images, rounded up, and `FEWEST` at least."""
        count = min(len(self.losses), max(FEWEST, (len(self.losses) + 1) // 2))
        return self.losses.topk(count, sorted=False).indices

    def at(self, chosen: Tensor) -> _Hardest:
        """Some of them."""
        return _Hardest(**{name: part[chosen] for name, part in vars(self).items()})

    def compare(self, noisy: Tensor, losses: Tensor) -> None:
        """n more copies of each, (n, K, C, H, W), and their losses (n, K)."""
        largest, which = losses.max(0)
        hardest = noisy[which, torch.arange(len(which), device=which.device)]
        self.noisy = torch.where((largest > self.losses).view(-1, 1, 1, 1), hardest, self.noisy)
        self.losses = torch.maximum(largest, self.losses)
