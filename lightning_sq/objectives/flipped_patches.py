"""A random search among noisy images: a patch of an image gets the opposite noise, again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lightning_sq.ops.interval import quantized_box
from lightning_sq.ops.smallest import TINY


@dataclass(frozen=True)
class FlippedPatches:
    """Noisy images, of which a square of pixels is put at the other end of the noise, at places that are drawn.

    Noise of size epsilon moves what a network sees of a pixel x between Q(clip(x - epsilon)) and Q(clip(x + epsilon)).
    What is seen above the middle of the two becomes clip(x - epsilon), anything else clip(x + epsilon). The odds of a
    pixel to be the centre are in proportion to the width of that interval, summed over channels: behind a quantizer
    most pixels cannot be moved. To keep a flip where it makes the image harder is a random search by squares, as the
    square attack is (Andriushchenko et al. 2020, arXiv 1912.00049). A square is cut at the edge of the image; one of
    an even side reaches a pixel further down and right.

    Args:
        quantizer: Q, elementwise and non-decreasing; None where the network sees the pixels.
        lower: (K, C, H, W), one end of the noise on each image.
        upper: The other.
        twice_middle: Q(lower) + Q(upper).
        rows: (K, n, H), true within each of n squares.
        columns: (K, n, W).
    """

    quantizer: Callable[[Tensor], Tensor] | None
    lower: Tensor
    upper: Tensor
    twice_middle: Tensor
    rows: Tensor
    columns: Tensor

    @classmethod
    def drawn(
        cls,
        quantizer: Callable[[Tensor], Tensor] | None,
        natural: Tensor,
        *,
        epsilon: float,
        sides: Sequence[int],
        generator: Generator,
    ) -> FlippedPatches:
        """The places of all flips at once: what they depend on does not change from one to the next.

        Args:
            quantizer: See the class.
            natural: (K, C, H, W), images without noise.
            epsilon: Size of the noise, of the full pixel range.
            sides: Of the square of each flip, in pixels.
            generator: On the device of `natural`.
        """
        lower, upper = quantized_box(natural, epsilon)
        low, high = _seen(quantizer, lower), _seen(quantizer, upper)
        odds = (high - low).sum(1).flatten(1).nan_to_num().clamp_min(TINY)
        places = odds.multinomial(len(sides), replacement=True, generator=generator)
        height, width = natural.shape[-2:]
        lengths = torch.tensor(sides).to(places.device, non_blocking=True)
        rows = _within(places // width, lengths, height)
        return cls(quantizer, lower, upper, low + high, rows, _within(places % width, lengths, width))

    def __call__(self, noisy: Tensor, k: int) -> Tensor:
        """Noisy copies (K, C, H, W) of the images -> the same with the k-th square of each flipped."""
        inside = self.rows[:, k, None, :, None] & self.columns[:, k, None, None, :]
        opposite = torch.where(2 * _seen(self.quantizer, noisy) > self.twice_middle, self.lower, self.upper)
        return torch.where(inside, opposite, noisy)


def _seen(quantizer: Callable[[Tensor], Tensor] | None, images: Tensor) -> Tensor:
    return images if quantizer is None else quantizer(images).float()


def _within(centres: Tensor, sides: Tensor, length: int) -> Tensor:
    """Centres (K, n) and sides (n,) of intervals -> true within each, (K, n, length)."""
    away = torch.arange(length, device=centres.device) - centres[..., None]
    return (away >= -((sides - 1) // 2)[:, None]) & (away <= (sides // 2)[:, None])
