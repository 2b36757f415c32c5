"""What objectives have in common that are not minimised in full from the first step."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sq.objectives.base import Objective


class RampedObjective(Objective):
    r"""An objective that is made harder, linearly, over training batches that it counts.

    The share of the next batch, of which `step` have been counted, is $ \min(1, \max(0, (step - s) / r)) $.

    Args:
        ramp_steps: r, training batches of the ramp; 0 is none, and the share 1 throughout.
        ramp_start: s, batches whose share is 0; -1 begins one step up the ramp.
        label_smoothing: See `Objective`.
    """

    step: Tensor

    def __init__(self, ramp_steps: int, ramp_start: int, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self.ramp_steps = ramp_steps
        self.ramp_start = ramp_start
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # saved in every checkpoint

    @property
    def share(self) -> Tensor | float:
        """In [0, 1], for the next training batch; on the device, so that no step waits for it."""
        return ((self.step - self.ramp_start) / self.ramp_steps).clamp(0, 1) if self.ramp_steps else 1.0

    def count_batch(self) -> None:
        """In training, one batch further along the ramp."""
        if self.training:
            self.step += 1
