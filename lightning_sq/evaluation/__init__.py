"""Robust accuracy, image by image, of any function from pixels to logits."""

from lightning_sq.evaluation.runner import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
