"""Robust accuracy, image by image, of any function from pixels to logits."""

from lightning_sq.evaluation.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
