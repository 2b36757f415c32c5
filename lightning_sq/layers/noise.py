"""Noise as a layer: drawn on the device from its own generator, added, clipped to the pixel range."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_sq.ops.noise import NOISES, draw_for_each
from lightning_sq.types import PIXEL_BOUNDS, parse_epsilon

NoiseKind = Literal["uniform", "rademacher", "gaussian"]


class PixelNoise(nn.Module):
    """clip(x + n), n uniform in [-epsilon, epsilon], Rademacher (+-epsilon) or Gaussian (standard deviation epsilon).

    The generator is the layer's own, so that nothing else that draws random numbers changes the noise, and it can
    be saved and put back (`generator_state`), so that a resumed run sees the noise that would have come.

    Args:
        kind: "uniform", "rademacher" or "gaussian".
        epsilon: Size in units of the full pixel range: a number in [0, 1], or text such as "8/255".
    Shape: (B, C, H, W) in, the same out, in [0, 1].
    """

    def __init__(self, kind: NoiseKind = "uniform", epsilon: float | str = "8/255") -> None:
        super().__init__()
        self.kind = kind
        self.epsilon = parse_epsilon(epsilon)
        self._seed = 0
        self._generator: torch.Generator | None = None
        self._restored_state: Tensor | None = None

    def seed(self, seed: int, rank: int = 0) -> None:
        """Start a new stream of noise; every rank has its own."""
        self._seed = seed * 1_000_003 + rank
        self._generator = self._restored_state = None

    def generator_on(self, device: torch.device) -> torch.Generator:
        """The layer's generator, made on first use because only then the device is known."""
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device)
            self._generator.manual_seed(self._seed)
            if self._restored_state is not None:
                self._generator.set_state(self._restored_state)
        return self._generator

    @property
    def generator_state(self) -> Tensor | None:
        """The generator's state as a byte tensor on the CPU; None before the first draw."""
        return self._restored_state if self._generator is None else self._generator.get_state()

    @generator_state.setter
    def generator_state(self, state: Tensor | None) -> None:
        self._restored_state = None if state is None else state.cpu()
        self._generator = None

    def forward(self, images: Tensor) -> Tensor:
        noise = NOISES[self.kind](images, epsilon=self.epsilon, generator=self.generator_on(images.device))
        return (images + noise).clamp(*PIXEL_BOUNDS)

    def repeatable(self, images: Tensor, indices: Tensor) -> Tensor:
        """Like `forward`, with noise that depends on each image's dataset index (B,) alone.

        So a validation says the same on any number of processes, and takes nothing from the training's stream.
        """
        draw = NOISES[self.kind]
        noise = draw_for_each(
            images, indices.tolist(), lambda x, generator: draw(x, epsilon=self.epsilon, generator=generator)
        )
        return (images + noise).clamp(*PIXEL_BOUNDS)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, epsilon={self.epsilon:.6g}"
