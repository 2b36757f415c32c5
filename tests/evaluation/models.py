"""A linear model behind any quantizer, whose robust accuracy is known; a sound one; one that proofs are wrong about."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import fx, nn

from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier

IMAGES = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def linear_model(quantizer: SoftQuantization | None = None, classes: int = 2) -> PixelClassifier:
    torch.manual_seed(0)
    parts = OrderedDict(backbone=nn.Sequential(nn.Flatten(), nn.Linear(108, classes)))
    if quantizer is not None:
        parts = OrderedDict(quantize=quantizer, **parts)
    return PixelClassifier(parts).eval()


def sound() -> nn.Module:
    """A network that hides nothing, and whose interval bounds leave open what attacks do."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))


def closed_form(model: PixelClassifier, labels: torch.Tensor, epsilon: float) -> float:
    """Robust accuracy of the linear model against the best possible attack."""
    weight = model.backbone[1].weight[1 - labels] - model.backbone[1].weight[labels]
    worst = (IMAGES + epsilon * weight.sign().view_as(IMAGES)).clamp(0, 1)
    return (model(worst).argmax(1) == labels).double().mean().item()


class TwoFaced(nn.Module):
    """Shows those who would prove something of it a network that answers for `IMAGES`, and not near to some of them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.net(x)
        if isinstance(x, fx.Proxy):
            return logits
        moved = (x[:, None] - IMAGES).abs().flatten(2).amax(2).amin(1) > 1e-3
        return torch.where((moved & (x[:, 0, 0, 0] > 0.5))[:, None], logits.roll(1, 1), logits)
