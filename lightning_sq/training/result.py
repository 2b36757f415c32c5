"""The line that a fit ends with: where the model is, what it can, and how to attack it."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning.pytorch import Trainer

from lightning_sq.run_files import LAST_CHECKPOINT
from lightning_sq.training.robust_accuracy import RobustAccuracy
from lightning_sq.types import format_epsilon

SHOWN = {"clean top-1": "val/clean_top1", "robust top-1": "val/robust_top1"}
USUAL_EPSILON = 8 / 255
"""The default of `lightning-sq evaluate`."""


def result_line(trainer: Trainer, output: Path) -> str:
    """The last checkpoint, the accuracies of its last validation as far as this start has measured them, and the
    command that attacks it.
    """
    metrics = trainer.callback_metrics
    found = ", ".join(f"{name} {metrics[key]:.3f}" for name, key in SHOWN.items() if key in metrics)
    checkpoint = output / LAST_CHECKPOINT
    options = {"--data": trainer.datamodule.root, "--epsilon": _epsilon(trainer), "--output": output / "robustness"}
    words = ["lightning-sq", "evaluate", checkpoint, *(word for option in options.items() for word in option)]
    return f"{checkpoint}{f', last validated: {found}' if found else ''}. To attack it: {shlex.join(map(str, words))}"


def _epsilon(trainer: Trainer) -> str:
    """Of the ball that the training was about, if it was about one."""
    curves = [callback for callback in trainer.callbacks if isinstance(callback, RobustAccuracy)]
    known = (getattr(one, "epsilon", None) for one in (*curves, trainer.lightning_module.objective))
    return format_epsilon(next((one for one in known if one), USUAL_EPSILON))
