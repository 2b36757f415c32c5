"""What is minimised: one small file an objective, each usable with or without the quantizer."""

from lightning_sq.objectives.base import Objective
from lightning_sq.objectives.natural import Natural
from lightning_sq.objectives.noisy_natural import NoisyNatural

__all__ = ["Natural", "NoisyNatural", "Objective"]
