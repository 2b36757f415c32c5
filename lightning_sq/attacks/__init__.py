"""Attacks know a function from pixels to logits, and nothing else. FGSM is PGD with one step.

What a model does at random or without a derivative is handled by wrapping the model (`bpda`), not inside an attack.
"""

from lightning_sq.attacks.bpda import bpda
from lightning_sq.attacks.checks import fools
from lightning_sq.attacks.pgd import PGD
from lightning_sq.attacks.quantized_box import QuantizedBox

__all__ = ["PGD", "QuantizedBox", "bpda", "fools"]
