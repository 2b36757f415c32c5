"""Noise as a layer: drawn on the device from its own generator, added, clipped to the pixel range."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import torch
from torch import Generator, Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.ops.noise import (
    BLURRED_DEVIATION,
    NoiseKind,
    NoisePattern,
    blurred,
    correlated_noise,
    draw_for_each,
    from_gaussian,
    gaussian_noise,
)
from lightning_sq.ops.random_numbers import SEED_STRIDE
from lightning_sq.types import PIXEL_BOUNDS, parse_epsilon


class PixelNoise(nn.Module):
    """clip(x + n), n uniform in [-epsilon, epsilon], Rademacher (+-epsilon) or Gaussian (standard deviation epsilon).

    The generator is the layer's own, so that nothing else that draws random numbers changes the noise, and it can
    be saved and put back (`generator_state`), so that a resumed run sees the noise that would have come.

    Args:
        kind: "uniform", "rademacher" or "gaussian".
        epsilon: Size in units of the full pixel range: a number in [0, 1], or text such as "8/255".
        pattern: "pixel" (independent), "image", "blocks", "smooth" or "mixture"; see `correlated_noise`.
        scales: Cells along a side of the image, for the last three patterns.
    Shape: (B, C, H, W) in, the same out, in [0, 1].
    Raises: InputError for a kind, an epsilon, a pattern or a scale that cannot be.
    """

    def __init__(
        self,
        kind: NoiseKind = "uniform",
        epsilon: float | str = "8/255",
        pattern: NoisePattern = "pixel",
        scales: Sequence[int] = (2, 4, 8),
    ) -> None:
        super().__init__()
        for name, value, choice in (("noise", kind, NoiseKind), ("pattern", pattern, NoisePattern)):
            if value not in get_args(choice):
                raise InputError(f"{name}={value!r} is not one of {', '.join(get_args(choice))}.")
        if not scales or min(scales) < 1:
            raise InputError(f"scales={list(scales)} are not counts of at least 1. [2, 4, 8] is usual.")
        self.kind = kind
        self.epsilon = parse_epsilon(epsilon)
        self.pattern = pattern
        self.scales = tuple(scales)
        self._seed = self._rank = 0
        self._generator: Generator | None = None
        self._restored_state: Tensor | None = None

    def seed(self, seed: int, rank: int = 0) -> None:
        """Start a new stream of noise; every rank has its own."""
        self._seed, self._rank = seed * SEED_STRIDE + rank, rank
        self._generator = self._restored_state = None

    def generator_on(self, device: torch.device) -> Generator:
        """The layer's generator, made on first use because only then the device is known."""
        if self._generator is None or self._generator.device != device:
            state = self.generator_state
            self._generator = Generator(device)
            self._generator.manual_seed(self._seed)
            if state is not None:
                self._put_back(self._generator, state)
        return self._generator

    def _put_back(self, generator: Generator, state: Tensor) -> None:
        """A GPU's state is no CPU's: then a new stream starts, from a seed that the state gives."""
        if state.numel() == generator.get_state().numel():
            generator.set_state(state)
            return
        digest = hashlib.sha256(state.numpy().tobytes()).digest()
        generator.manual_seed(int.from_bytes(digest[:7], "big"))
        if self._rank == 0:
            warnings.warn(
                f"The noise was drawn on another kind of device than {generator.device.type}: it goes on with a new "
                "stream, so the run is not the one that would have come.",
                stacklevel=2,
            )

    @property
    def generator_state(self) -> Tensor | None:
        """The generator's state as a byte tensor on the CPU; None before the first draw."""
        return self._restored_state if self._generator is None else self._generator.get_state()

    @generator_state.setter
    def generator_state(self, state: Tensor | None) -> None:
        self._restored_state = None if state is None else state.cpu()
        self._generator = None

    def _draw(self, images: Tensor, generator: Generator, turn: int = 0) -> Tensor:
        return correlated_noise(
            images,
            kind=self.kind,
            epsilon=self.epsilon,
            pattern=self.pattern,
            scales=self.scales,
            generator=generator,
            turn=turn,
        )

    def draw(self, images: Tensor, turn: int = 0) -> Tensor:
        """The next noise for images (B, C, H, W), neither added nor clipped; `turn` as in `correlated_noise`."""
        return self._draw(images, self.generator_on(images.device), turn)

    def leaning(self, direction: Tensor, scatter: float) -> Tensor:
        """Noise of this kind and size whose pixels lean towards `direction`, neither added nor clipped.

        Args:
            direction: (B, C, H, W) of root mean square 1, such as a standard normal field; it is mapped to the kind's
                distribution as fields are, for "rademacher" to epsilon times its sign.
            scatter: Standard deviation of a normal field that is added before, a little blurred.
        """
        if scatter:
            generator = self.generator_on(direction.device)
            field = blurred(gaussian_noise(direction, epsilon=1.0, generator=generator)) / BLURRED_DEVIATION
            direction = direction + scatter * field
        return from_gaussian(direction / (1 + scatter**2) ** 0.5, kind=self.kind, epsilon=self.epsilon)

    def towards_others(self, images: Tensor, count: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """clip(x' - x, -epsilon, epsilon) for `count` other images x' of the batch, or all if it has fewer.

        What differs from one natural image to another is noise as well, and such as no pattern draws. Each is a
        function of places in the batch, (K,), which gives the noise of these images alone, (K, C, H, W).
        """
        generator = self.generator_on(images.device)
        shifts = torch.randperm(max(len(images) - 1, 0), generator=generator, device=images.device)[:count] + 1
        for shift in shifts:
            yield lambda places, shift=shift: (images[(places + shift) % len(images)] - images[places]).clamp_(
                -self.epsilon, self.epsilon
            )

    def forward(self, images: Tensor, turn: int = 0) -> Tensor:
        return (images + self.draw(images, turn)).clamp_(*PIXEL_BOUNDS)

    def repeatable(self, images: Tensor, indices: Tensor) -> Tensor:
        """Like `forward`, with noise that depends on each image's dataset index (B,) alone.

        So a validation says the same on any number of processes, and takes nothing from the training's stream.
        """
        numbers = indices.tolist()
        turns = iter(numbers)
        noise = draw_for_each(images, numbers, lambda x, g: self._draw(x[None], g, next(turns))[0])
        return (images + noise).clamp(*PIXEL_BOUNDS)

    def extra_repr(self) -> str:
        scales = f", scales={self.scales}" if self.pattern in ("blocks", "smooth", "mixture") else ""
        return f"kind={self.kind!r}, epsilon={self.epsilon:.6g}, pattern={self.pattern!r}{scales}"
