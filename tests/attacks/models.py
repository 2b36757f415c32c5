"""Images and models on which the truth is known."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier

IMAGES = torch.rand(24, 3, 6, 6, generator=torch.Generator().manual_seed(0))
SEEDS = list(range(24))


def linear(seed: int = 0, classes: int = 2) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, classes))


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, 5))


def quantized_linear(quantizer: SoftQuantization, classes: int = 2) -> PixelClassifier:
    return PixelClassifier(OrderedDict(quantize=quantizer, backbone=linear(classes=classes))).eval()


def best_linear_attack(
    model: nn.Sequential, images: torch.Tensor, labels: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """The closed form: every pixel as far as the ball and the box let it go, along the sign of the weights."""
    weight = model[1].weight[1 - labels] - model[1].weight[labels]
    return (images + epsilon * weight.sign().view_as(images)).clamp(0, 1)
