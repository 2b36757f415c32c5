"""The hardest of many noisy copies of each image, looked for by forward passes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_sq.attacks.criteria import margin
from lightning_sq.attacks.front_end import parts_of
from lightning_sq.layers import PixelNoise
from lightning_sq.objectives.base import running_statistics_kept
from lightning_sq.objectives.flipped_patches import FlippedPatches
from lightning_sq.objectives.margin_model import MarginModel
from lightning_sq.types import PIXEL_BOUNDS

SCATTER = 1.0
"""Of refined draws about where the margin grows, in terms of its root mean square; the first does not scatter."""
FLIP_SIDES = (3, 2)
"""Pixels along a side of the patches that flip: of the first half of the flips, and of the second."""
FEWEST = 2
"""Images that halving leaves: batch normalisation that trains refuses a single one."""


@dataclass(frozen=True)
class HardestNoise:
    """For each image, of all the draws that it gets, the one with the largest cross-entropy.

    First random draws, then those towards other images of the batch, then refined ones, then flips; see `NoisyNatural`,
    where the arguments are explained. A pass of the network takes about as many images as the batch has: where halving
    has left fewer, several draws of each. What refined draws go by is known before the pass, so that they share one;
    each flip is of what the one before left, and has a pass of its own.

    Args:
        noise: Draws it.
        num_draws: Random draws.
        num_others: Draws towards other images.
        num_refined: Refined draws.
        num_flips: Flips of a patch.
        halve_after: Counts of draws after which the easier half is left as it is.
    """

    noise: PixelNoise
    num_draws: int
    num_others: int
    num_refined: int
    num_flips: int
    halve_after: tuple[int, ...]

    @torch.no_grad()
    def __call__(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W), (B,) -> the noisy images (B, C, H, W); the model's running statistics stay as they are."""
        quantizer, network = parts_of(model)
        margins = MarginModel()
        draws = [*self._draws(images, margins), *self._flips(quantizer)]
        found, left, done = images.clone(), _Hardest.of(images, labels), 0
        with running_statistics_kept(model):
            while done < len(draws):
                if done in self.halve_after:
                    found[left.places] = left.noisy
                    half = left.harder_half()
                    left = left.at(half)
                    margins.keep(half)
                count = min(self._next_stop(done, len(draws)) - done, max(1, len(images) // len(left.places)))
                noisy = torch.stack([draw(left) for draw in draws[done : done + count]])
                seen = noisy if quantizer is None else quantizer(noisy)
                logits, same_labels = network(seen.flatten(0, 1)).float(), left.labels.repeat(count)
                left.compare(noisy, cross_entropy(logits, same_labels, reduction="none").view(count, -1))
                if self.num_refined and done < len(draws) - self.num_flips:
                    margins.update(seen, margin(logits, same_labels).view(count, -1))
                done += count
        found[left.places] = left.noisy
        return found

    def _draws(self, images: Tensor, margins: MarginModel) -> Iterator[Draw]:
        """In their order; the refined ones go by what `margins` was told meanwhile of the images that are left.

        Of several patterns an image gets another one with every random draw, until halving deals the places anew.
        """
        for turn in range(self.num_draws):
            yield lambda left, turn=turn: left.with_noise(self.noise.draw(left.natural, turn))
        if self.num_others:
            for towards in self.noise.towards_others(images, self.num_others):
                yield lambda left, towards=towards: left.with_noise(towards(left.places))
        for k in range(self.num_refined):
            scatter = SCATTER if k else 0.0
            yield lambda left, scatter=scatter: left.with_noise(self.noise.leaning(margins.direction(), scatter))

    def _flips(self, quantizer: Callable[[Tensor], Tensor] | None) -> Iterator[Draw]:
        """After the draws: one patch each, the larger ones first."""
        sides = [FLIP_SIDES[k * len(FLIP_SIDES) // self.num_flips] for k in range(self.num_flips)]

        def flipped(left: _Hardest, k: int) -> Tensor:
            if left.patches is None:
                generator = self.noise.generator_on(left.natural.device)
                left.patches = FlippedPatches.drawn(
                    quantizer, left.natural, epsilon=self.noise.epsilon, sides=sides, generator=generator
                )
            return left.patches(left.noisy, k)

        for k in range(self.num_flips):
            yield lambda left, k=k: flipped(left, k)

    def _next_stop(self, done: int, in_all: int) -> int:
        """Before which draw the next pass has to end: to halve, to learn where refined ones are to go, after a flip."""
        flips = in_all - self.num_flips
        if done >= flips:
            return done + 1
        return min(stop for stop in (*self.halve_after, flips - self.num_refined, flips) if stop > done)


@dataclass
class _Hardest:
    """Images that are searched on, and the hardest noisy copy of each so far.

    Args:
        places: (K,) in the batch.
        natural: (K, C, H, W).
        labels: (K,).
        noisy: (K, C, H, W).
        losses: (K,) of the noisy copies.
        patches: Of the flips of these images, from the first flip on.
    """

    places: Tensor
    natural: Tensor
    labels: Tensor
    noisy: Tensor
    losses: Tensor
    patches: FlippedPatches | None = None

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> _Hardest:
        """All images of a batch, before the first draw."""
        losses = torch.full((len(images),), float("-inf"), device=images.device)
        return cls(torch.arange(len(images), device=images.device), images, labels, images, losses)

    def with_noise(self, noise: Tensor) -> Tensor:
        """Noise on each, (K, C, H, W), clipped to the pixel range."""
        return (self.natural + noise).clamp_(*PIXEL_BOUNDS)

    def harder_half(self) -> Tensor:
        """Where the losses are largest: half of the images, rounded up, and `FEWEST` at least."""
        count = min(len(self.losses), max(FEWEST, (len(self.losses) + 1) // 2))
        return self.losses.topk(count, sorted=False).indices

    def at(self, chosen: Tensor) -> _Hardest:
        """Some of them."""
        parts = (self.places, self.natural, self.labels, self.noisy, self.losses)
        return _Hardest(*(part[chosen] for part in parts))

    def compare(self, noisy: Tensor, losses: Tensor) -> None:
        """n more copies of each, (n, K, C, H, W), and their losses (n, K)."""
        largest, which = losses.max(0)
        hardest = noisy[which, torch.arange(len(which), device=which.device)]
        self.noisy = torch.where((largest > self.losses).view(-1, 1, 1, 1), hardest, self.noisy)
        self.losses = torch.maximum(largest, self.losses)


Draw = Callable[[_Hardest], Tensor]
"""The images that are left -> a noisy copy of each, (K, C, H, W)."""
