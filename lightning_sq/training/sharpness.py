"""A quantizer that sharpens while the network is trained."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.ops.checks import check_sharpness


class SharpnessSchedule(Callback):
    """Moves the quantizer's sharpness from `start` to `end` by the same factor at each optimizer step, then leaves it.

    It is a function of the place in the schedule, start (end / start)^(step / (steps - 1)), so a run that resumes goes
    on where it was; the last step is trained at `end`, but where a time limit leaves steps out. Logs train/sharpness.

    Args:
        start: Sharpness at the first step, in 1 / (full pixel range).
        end: Sharpness at the last; may be the smaller one.
        epochs: How long it moves; may be a fraction. The whole run if left out.
    Raises: InputError for numbers that are not finite and above 0, and, when training starts, for a model without a
        quantizer or with one that is hard or learns its sharpness itself.
    """

    def __init__(self, start: float, end: float, epochs: float | None = None) -> None:
        self.start, self.end = check_sharpness(start), check_sharpness(end)
        if epochs is not None and not (epochs > 0 and math.isfinite(epochs)):
            raise InputError(f"epochs={epochs} is not a finite number above 0. Leave it out for the whole run.")
        self.epochs = epochs

    def at(self, step: float, *, num_steps: int) -> float:
        """The sharpness for the optimizer step with number `step`, counted from 0, of a schedule of `num_steps`."""
        progress = min(1.0, step / max(1, num_steps - 1))
        return self.start ** (1 - progress) * self.end**progress

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        quantizer = _quantizer_of(pl_module)
        if quantizer is None:
            raise InputError(
                "SharpnessSchedule needs a model with a quantizer, and this one has none. "
                "Set --model.quantizer.num_levels, or leave the callback out."
            )
        for reason, is_so in (("is hard", quantizer.hard), ("learns its sharpness", quantizer.learnable_sharpness)):
            if is_so:
                raise InputError(
                    f"SharpnessSchedule has nothing to set, the quantizer {reason}. Leave one of them out."
                )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # with the learning rate: also behind a time limit, and after a change of the steps in an epoch
        sharpness = self.at(pl_module.run.plan.position, num_steps=self._num_steps(trainer))
        _quantizer_of(pl_module).sharpness = sharpness
        # a tensor, on the CPU: Lightning would bring a number to the GPU, and wait for that
        pl_module.log("train/sharpness", torch.tensor(sharpness), on_step=True, on_epoch=False)

    def _num_steps(self, trainer: Trainer) -> int:
        if self.epochs is None:
            return trainer.lightning_module.run.plan.total_steps
        return round(self.epochs * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))


def _quantizer_of(module: LightningModule) -> SoftQuantization | None:
    return getattr(getattr(module, "model", None), "quantizer", None)
