"""The small networks of the field's MNIST and CIFAR-10 experiments, under names that `timm.create_model` knows.

They take 28 x 28 pixels (those of CIFAR 32 x 32); their layers have interval rules (`layers/interval_network`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

NORMALIZATION = {"mean": (0.0,), "std": (1.0,), "num_classes": 10, "classifier": "head"}
DIGITS = {"input_size": (1, 28, 28), "crop_pct": 1.0, **NORMALIZATION}
TINY_PHOTOGRAPHS = {"input_size": (3, 32, 32), "crop_pct": 1.0, **NORMALIZATION, "classifier": "fc"}

default_cfgs = generate_default_cfgs(
    {
        "small_cnn.untrained": DIGITS,
        "madry_cnn.untrained": DIGITS,
        "wide_cnn.untrained": DIGITS,
        "wide_cnn_cifar.untrained": TINY_PHOTOGRAPHS | {"classifier": "head"},
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
    """

    pretrained_cfg: dict[str, Any]

    def __init__(
        self,
        convolutions: tuple[tuple[int, int, int, int], ...],
        hidden: tuple[int, ...],
        num_features: int,
        num_classes: int = 10,
        in_chans: int = 1,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (filters, kernel, stride, padding) in enumerate(convolutions, start=1):
            layers[f"conv{number}"] = nn.Conv2d(in_chans, filters, kernel, stride or 1, padding)
            layers[f"relu{number}"] = nn.ReLU()
            if not stride:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
            in_chans = filters
        layers["flatten"] = nn.Flatten()
        for number, units in enumerate(hidden, start=len(convolutions) + 1):
            layers[f"fc{number}"] = nn.Linear(num_features, units)
            layers[f"relu{number}"] = nn.ReLU()
            num_features = units
        layers["head"] = nn.Linear(num_features, num_classes)
        super().__init__(layers)


@register_model
def small_cnn(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """conv(16, 4, 2, 1), conv(32, 4, 2, 1), linear(100): Wong and Kolter 2018 (arXiv 1711.00851), and FGSM-RS's net."""
    shape = {"convolutions": ((16, 4, 2, 1), (32, 4, 2, 1)), "hidden": (100,), "num_features": 32 * 7 * 7}
    return build_model_with_cfg(ConvNet, "small_cnn", pretrained, **shape, **kwargs)


@register_model
def madry_cnn(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """Two 5 x 5 convolutions (32, 64) with pooling, linear(1024): the MNIST challenge of Madry et al. 2018."""
    shape = {"convolutions": ((32, 5, 0, 2), (64, 5, 0, 2)), "hidden": (1024,), "num_features": 64 * 7 * 7}
    return build_model_with_cfg(ConvNet, "madry_cnn", pretrained, **shape, **kwargs)


@register_model
def wide_cnn(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """conv(64, 5, 2, 2), conv(128, 5, 2, 2), linear(512): few and wide, for interval bounds grow with every layer."""
    shape = {"convolutions": ((64, 5, 2, 2), (128, 5, 2, 2)), "hidden": (512,), "num_features": 128 * 7 * 7}
    return build_model_with_cfg(ConvNet, "wide_cnn", pretrained, **shape, **kwargs)


@register_model
def wide_cnn_cifar(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """`wide_cnn` for 32 x 32 pixels."""
    shape = {"convolutions": ((64, 5, 2, 2), (128, 5, 2, 2)), "hidden": (512,), "num_features": 128 * 8 * 8}
    return build_model_with_cfg(ConvNet, "wide_cnn_cifar", pretrained, **shape, **kwargs)


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's ResNet-18 with a 3 x 3 first convolution of stride 1 and no pooling behind it, for 32 x 32 pixels."""
    shape = {"block": BasicBlock, "layers": (2, 2, 2, 2), "num_classes": 10}
    model = build_model_with_cfg(ResNet, "resnet18_cifar", pretrained, **shape | kwargs)
    model.conv1 = nn.Conv2d(model.conv1.in_channels, 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model
