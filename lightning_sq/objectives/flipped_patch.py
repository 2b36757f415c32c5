"""One step of a random search among noisy images: a patch of an image gets the opposite noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lightning_sq.types import PIXEL_BOUNDS

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class FlippedPatch:
    """Noisy images, of which a square of pixels is put at the other end of the noise, at a place that is drawn.

    Noise of size epsilon moves what a network sees of a pixel x between Q(clip(x - epsilon)) and Q(clip(x + epsilon)).
    What is seen above the middle of the two becomes clip(x - epsilon), anything else clip(x + epsilon). The odds of a
    pixel to be the centre are in proportion to the width of that interval, summed over channels: behind a quantizer
    most pixels cannot be moved. To keep a flip where it makes the image harder is a random search by squares, as the
    square attack is (Andriushchenko et al. 2020, arXiv 1912.00049).

    Args:
        quantizer: Q, elementwise and non-decreasing; None where the network sees the pixels.
        epsilon: Size of the noise, of the full pixel range.
    """

    quantizer: Callable[[Tensor], Tensor] | None
    epsilon: float

    def __call__(self, natural: Tensor, noisy: Tensor, side: int, generator: Generator) -> Tensor:
        """(K, C, H, W) images and noisy copies of them -> the copies, with one square of `side` pixels flipped each.

        A square is cut at the edge of the image; one of an even side reaches a pixel further down and right.
        """
        lower, upper = ((natural + end).clamp_(*PIXEL_BOUNDS) for end in (-self.epsilon, self.epsilon))
        low, high = self._seen(lower), self._seen(upper)
        centre = _drawn((high - low).sum(1), generator)
        inside = _square(centre, side, natural)
        return torch.where(inside, torch.where(2 * self._seen(noisy) > low + high, lower, upper), noisy)

    def _seen(self, images: Tensor) -> Tensor:
        return images if self.quantizer is None else self.quantizer(images).float()


def _drawn(widths: Tensor, generator: Generator) -> Tensor:
    """(K, H, W) -> places (K, 1) in H W, with odds in proportion to the widths; anywhere if all are 0.

    The first of exponential clocks with these rates to ring, so that no GPU is waited for.
    """
    rates = widths.flatten(1).clamp_min(TINY)
    return (torch.empty_like(rates).exponential_(generator=generator) / rates).argmin(1, keepdim=True)


def _square(centre: Tensor, side: int, images: Tensor) -> Tensor:
    """Places (K, 1) in H W -> true within a square about each, (K, 1, H, W)."""
    height, width = images.shape[-2:]
    before, after = (side - 1) // 2, side // 2
    rows = torch.arange(height, device=centre.device) - centre // width
    columns = torch.arange(width, device=centre.device) - centre % width
    near_row, near_column = ((away >= -before) & (away <= after) for away in (rows, columns))
    return near_row[:, None, :, None] & near_column[:, None, None, :]
