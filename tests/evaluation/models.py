"""A linear model behind any quantizer, whose robust accuracy is known."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier

IMAGES = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def linear_model(quantizer: SoftQuantization | None = None, classes: int = 2) -> PixelClassifier:
    torch.manual_seed(0)
    parts = OrderedDict(backbone=nn.Sequential(nn.Flatten(), nn.Linear(108, classes)))
    if quantizer is not None:
        parts = OrderedDict(quantize=quantizer, **parts)
    return PixelClassifier(parts).eval()


def closed_form(model: PixelClassifier, labels: torch.Tensor, epsilon: float) -> float:
    """Robust accuracy of the linear model against the best possible attack."""
    weight = model.backbone[1].weight[1 - labels] - model.backbone[1].weight[labels]
    worst = (IMAGES + epsilon * weight.sign().view_as(IMAGES)).clamp(0, 1)
    return (model(worst).argmax(1) == labels).double().mean().item()
