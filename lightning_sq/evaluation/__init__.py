"""Robust accuracy, image by image, of any function from pixels to logits."""

from lightning_sq.evaluation.evaluation import evaluate
from lightning_sq.evaluation.found import Evaluation
from lightning_sq.evaluation.suites import SuiteEntry, attacks_by_name

__all__ = ["Evaluation", "SuiteEntry", "attacks_by_name", "evaluate"]
