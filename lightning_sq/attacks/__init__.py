"""Attacks: (model, images, labels, seeds, epsilon) -> adversarial images.

An attack knows a function from pixels to logits, and nothing else. What a model does at random or without a derivative
is handled by wrapping the model (`with_bpda`, `OverDraws`) or by going behind its quantizer (`QuantizedBox`); each of
these takes another attack, so they combine. Those that prove as well (`BranchAndBound`, `MixedInteger`) give `Settled`.
"""

from lightning_sq.attacks.autoattack import AutoAttackStage
from lightning_sq.attacks.bpda import BPDA, quantizer_with_backward, with_bpda
from lightning_sq.attacks.branch_and_bound import BranchAndBound
from lightning_sq.attacks.checks import fools
from lightning_sq.attacks.draws import OverDraws
from lightning_sq.attacks.expectation import Expectation
from lightning_sq.attacks.front_end import TakenApart, take_apart
from lightning_sq.attacks.greedy_flips import GreedyFlips
from lightning_sq.attacks.interface import Attack, Prover, Settled
from lightning_sq.attacks.mixed_integer import MixedInteger
from lightning_sq.attacks.pgd import FGSM, PGD
from lightning_sq.attacks.quantized_box import QuantizedBox
from lightning_sq.attacks.square import Square
from lightning_sq.attacks.transfer import Transfer

__all__ = [
    "BPDA",
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttackStage",
    "BranchAndBound",
    "Expectation",
    "GreedyFlips",
    "MixedInteger",
    "OverDraws",
    "Prover",
    "QuantizedBox",
    "Settled",
    "Square",
    "TakenApart",
    "Transfer",
    "fools",
    "quantizer_with_backward",
    "take_apart",
    "with_bpda",
]
