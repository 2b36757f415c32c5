"""The small networks of the field's MNIST and CIFAR-10 experiments, under names that `timm.create_model` knows.

They take 28 x 28 pixels (those of CIFAR 32 x 32); their layers have interval rules (`verification/interval_network`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from lightning_sq.layers import UnitClamp

NORMALIZATION = {"mean": (0.0,), "std": (1.0,), "num_classes": 10, "classifier": "head"}
DIGITS = {"input_size": (1, 28, 28), "crop_pct": 1.0, **NORMALIZATION}
TINY_PHOTOGRAPHS = {"input_size": (3, 32, 32), "crop_pct": 1.0, **NORMALIZATION, "classifier": "fc"}

default_cfgs = generate_default_cfgs(
    {
        "small_cnn.untrained": DIGITS,
        "small_cnn_wide.untrained": DIGITS,
        "madry_cnn.untrained": DIGITS,
        "box_cnn.untrained": DIGITS,
        "box_cnn_wide.untrained": DIGITS,
        "box_cnn_cifar.untrained": TINY_PHOTOGRAPHS | {"classifier": "head"},
        "small_cnn_cifar.untrained": TINY_PHOTOGRAPHS | {"classifier": "head"},
        "resnet18_cifar.untrained": TINY_PHOTOGRAPHS,
    }
)


class ConvNet(nn.Sequential):
    """Convolutions with ReLU, then linear layers with ReLU, then `head`.

    Args:
        convolutions: (filters, kernel size, stride, padding) of each; stride 0 is a stride of 1 and 2 x 2 max pooling.
        hidden: Units of each linear layer.
        num_features: What the convolutions leave of an image.
        num_classes: Logits.
        in_chans: Channels of the image.
        num_planes: Unfold each channel of K quantized levels into its K - 1 = num_planes thresholds, 0 or 1 each, so
            that every one has weights of its own; 0 leaves the channels as they are.
        for_intervals: Batch norm before each ReLU, and weights drawn with the deviation sqrt(2 pi) / fan_in, for which
            interval bounds neither grow nor shrink from layer to layer (Shi et al. 2021, arXiv 2103.17268).
    """

    pretrained_cfg: dict[str, Any]

    def __init__(
        self,
        convolutions: tuple[tuple[int, int, int, int], ...],
        hidden: tuple[int, ...],
        num_features: int,
        num_classes: int = 10,
        in_chans: int = 1,
        num_planes: int = 0,
        for_intervals: bool = False,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if num_planes:
            layers["planes"], layers["binary"] = _planes(in_chans, num_planes), UnitClamp()
            in_chans *= num_planes
        for number, (filters, kernel, stride, padding) in enumerate(convolutions, start=1):
            layers[f"conv{number}"] = nn.Conv2d(in_chans, filters, kernel, stride or 1, padding)
            if for_intervals:
                layers[f"norm{number}"] = nn.BatchNorm2d(filters)
            layers[f"relu{number}"] = nn.ReLU()
            if not stride:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
            in_chans = filters
        layers["flatten"] = nn.Flatten()
        for number, units in enumerate(hidden, start=len(convolutions) + 1):
            layers[f"fc{number}"] = nn.Linear(num_features, units)
            if for_intervals:
                layers[f"norm{number}"] = nn.BatchNorm1d(units)
            layers[f"relu{number}"] = nn.ReLU()
            num_features = units
        layers["head"] = nn.Linear(num_features, num_classes)
        super().__init__(layers)
        self.num_features, self.num_classes = num_features, num_classes
        if for_intervals:
            for layer in self:
                if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.weight.requires_grad:
                    nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / layer.weight[0].numel())
                    nn.init.zeros_(layer.bias)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head sees, (B, units): there is no map left to pool."""
        for layer in list(self.children())[:-1]:
            x = layer(x)
        return x

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A head of `num_classes` random logits, 0 for none; there is nothing to pool, so `global_pool` is ignored."""
        like = next(self.parameters())
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)


def _planes(channels: int, num_planes: int) -> nn.Conv2d:
    """The k-th plane of q = l / num_planes is l - k + 1; cut to [0, 1] it says whether the level l is at least k."""
    layer = nn.Conv2d(channels, channels * num_planes, 1, groups=channels).requires_grad_(False)
    nn.init.constant_(layer.weight, num_planes)
    layer.bias.copy_(-torch.arange(num_planes, dtype=torch.float32).repeat(channels))
    return layer


@register_model
def small_cnn(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """conv(16, 4, 2, 1), conv(32, 4, 2, 1), linear(100): Wong and Kolter 2018 (arXiv 1711.00851), and FGSM-RS's net."""
    shape = {"convolutions": ((16, 4, 2, 1), (32, 4, 2, 1)), "hidden": (100,), "num_features": 32 * 7 * 7}
    return build_model_with_cfg(ConvNet, "small_cnn", pretrained, **shape, **kwargs)


@register_model
def small_cnn_wide(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """`small_cnn` with twice the filters and units: a sixth of the products of `madry_cnn`."""
    shape = {"convolutions": ((32, 4, 2, 1), (64, 4, 2, 1)), "hidden": (200,), "num_features": 64 * 7 * 7}
    return build_model_with_cfg(ConvNet, "small_cnn_wide", pretrained, **shape, **kwargs)


@register_model
def small_cnn_cifar(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """`small_cnn` for 32 x 32 pixels in three channels, as on CIFAR-10 in Wong et al. 2018 (arXiv 1805.12514)."""
    shape = {"convolutions": ((16, 4, 2, 1), (32, 4, 2, 1)), "hidden": (100,), "num_features": 32 * 8 * 8}
    kwargs = {"in_chans": 3} | kwargs
    return build_model_with_cfg(ConvNet, "small_cnn_cifar", pretrained, **shape, **kwargs)


@register_model
def madry_cnn(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """Two 5 x 5 convolutions (32, 64) with pooling, linear(1024): the MNIST challenge of Madry et al. 2018."""
    shape = {"convolutions": ((32, 5, 0, 2), (64, 5, 0, 2)), "hidden": (1024,), "num_features": 64 * 7 * 7}
    return build_model_with_cfg(ConvNet, "madry_cnn", pretrained, **shape, **kwargs)


@register_model
def box_cnn(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """conv(80, 12, 4, 2), linear(512), for three levels and interval bounds, which grow with every layer: so there are
    few, and the first sees a large part of the image at once, where the bounds are still exact.
    """
    shape = {"convolutions": ((80, 12, 4, 2),), "hidden": (512,), "num_features": 80 * 6 * 6}
    return build_model_with_cfg(ConvNet, "box_cnn", pretrained, num_planes=2, for_intervals=True, **shape, **kwargs)


@register_model
def box_cnn_wide(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """`box_cnn` with twice the filters and units, for longer schedules."""
    shape = {"convolutions": ((160, 12, 4, 2),), "hidden": (1024,), "num_features": 160 * 6 * 6}
    return build_model_with_cfg(
        ConvNet, "box_cnn_wide", pretrained, num_planes=2, for_intervals=True, **shape, **kwargs
    )


@register_model
def box_cnn_cifar(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """`box_cnn` with another convolution, for eight levels and 32 x 32 pixels."""
    shape = {"convolutions": ((64, 5, 2, 2), (128, 5, 2, 2)), "hidden": (512,), "num_features": 128 * 8 * 8}
    kwargs = {"in_chans": 3} | kwargs
    return build_model_with_cfg(
        ConvNet, "box_cnn_cifar", pretrained, num_planes=7, for_intervals=True, **shape, **kwargs
    )


class CifarResNet(ResNet):
    """timm's ResNet with a 3 x 3 first convolution of stride 1 and no pooling behind it: its maps are four times as
    high and wide.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv1 = nn.Conv2d(self.conv1.in_channels, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for maps in self.feature_info:
            maps["reduction"] = max(1, maps["reduction"] // 4)


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """`CifarResNet` with the blocks of ResNet-18, for 32 x 32 pixels."""
    shape = {"block": BasicBlock, "layers": (2, 2, 2, 2)}
    return build_model_with_cfg(CifarResNet, "resnet18_cifar", pretrained, **shape, **kwargs)
