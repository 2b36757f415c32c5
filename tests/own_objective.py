"""An objective that a test names on the command line; it stands apart for the reason that `callbacks` gives."""

from __future__ import annotations

import torch
from torch import nn

from lightning_sq.objectives import Objective


class Tempered(Objective):
    """Cross-entropy at a temperature that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, model, images, labels):
        logits = model(images) * self.log_temperature.exp()
        return self.loss(logits, labels), logits
