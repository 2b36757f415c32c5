"""The paper's objective: natural samples with noise, and nothing adversarial."""

from __future__ import annotations

from torch import Tensor

from lightning_sq.layers import PixelNoise
from lightning_sq.layers.noise import NoiseKind
from lightning_sq.objectives.base import Objective


class NoisyNatural(Objective):
    """E CE(f(clip(x + n)), y), n noise: behind a quantizer the paper's stand-in for CE + eps ||grad_x CE||_1.

    Args:
        noise: "uniform" in [-epsilon, epsilon], "rademacher" (+-epsilon) or "gaussian" (standard deviation epsilon).
        epsilon: Size of the noise in units of the full pixel range, such as 8/255.
        label_smoothing: See `Objective`.
    """

    adds_noise = True

    def __init__(
        self, noise: NoiseKind = "uniform", epsilon: float | str = "8/255", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(label_smoothing)
        self.noise = PixelNoise(noise, epsilon)

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
