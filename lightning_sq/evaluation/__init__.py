"""Robust accuracy, image by image, of any function from pixels to logits."""

from lightning_sq.evaluation.evaluation import evaluate
from lightning_sq.evaluation.found import Evaluation

__all__ = ["Evaluation", "evaluate"]
