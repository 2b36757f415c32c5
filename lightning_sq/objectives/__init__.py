"""What is minimised: one small file an objective, each usable with or without the quantizer."""

from lightning_sq.objectives.adversarial import FGSMRS, Adversarial
from lightning_sq.objectives.base import Objective
from lightning_sq.objectives.box_adversarial import BoxAdversarial
from lightning_sq.objectives.free import FreeAdversarial
from lightning_sq.objectives.gradient_penalty import GradientPenalty
from lightning_sq.objectives.interval_bound import IntervalBound
from lightning_sq.objectives.natural import Natural
from lightning_sq.objectives.noisy_natural import NoisyNatural

__all__ = [
    "FGSMRS",
    "Adversarial",
    "BoxAdversarial",
    "FreeAdversarial",
    "GradientPenalty",
    "IntervalBound",
    "Natural",
    "NoisyNatural",
    "Objective",
]
