"""Assembles the model: a visible pipeline from pixels to logits."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from lightning_sq.errors import InputError, one_line
from lightning_sq.layers import Normalize, SoftQuantization
from lightning_sq.models.backbone import create_backbone, feature_maps, replace_head
from lightning_sq.ops.staircases import Staircase


@dataclass(frozen=True)
class QuantizerConfig:
    """The soft-quantization layer in a recipe or a release; see `SoftQuantization` for the meaning of each value."""

    num_levels: int = 2
    sharpness: float = 30.0
    hard: bool = False
    staircase: Staircase = "sigmoid"
    thresholds: list[float] | list[list[float]] | None = None
    learnable_thresholds: bool = False
    learnable_sharpness: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """Everything but the weights that a model is made of; what a release's config.json holds.

    Args:
        architecture: A timm model name.
        class_names: One name for each logit, in order.
        mean: Subtracted from each channel, in pixel units ([0, 1]).
        std: Divides each channel.
        image_size: Height and width that the model was trained for.
        resize_size: Length of the shorter side before the centre crop of `image_size`.
        quantizer: None for a model without one.
    """

    architecture: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    resize_size: int
    quantizer: QuantizerConfig | None = None

    @property
    def num_channels(self) -> int:
        """3 for RGB images, 1 for grey ones."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as they stand in JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`. Raises: InputError on a missing, unknown or ill-typed value."""
        try:
            if values.keys() != {field.name for field in fields(cls)}:
                raise KeyError(*sorted(values.keys() ^ {field.name for field in fields(cls)}))
            quantizer = values["quantizer"]
            return cls(
                architecture=str(values["architecture"]),
                class_names=tuple(str(name) for name in values["class_names"]),
                mean=tuple(float(value) for value in values["mean"]),
                std=tuple(float(value) for value in values["std"]),
                image_size=int(values["image_size"]),
                resize_size=int(values["resize_size"]),
                quantizer=None if quantizer is None else QuantizerConfig(**quantizer),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"The model's description cannot be read ({one_line(error)}). Export the checkpoint again."
            ) from None


class PixelClassifier(nn.Sequential):
    """`quantize` (if the model has one), `normalize`, `backbone`: images (B, C, H, W) in [0, 1] to logits (B, classes).

    `print(model)` is the method's diagram, and `model.backbone.state_dict()` loads into plain timm.
    """

    def __init__(self, parts: OrderedDict[str, nn.Module], config: ModelConfig | None = None) -> None:
        super().__init__(parts)
        self.config = config

    @property
    def quantizer(self) -> SoftQuantization | None:
        """The soft-quantization layer, or None."""
        return getattr(self, "quantize", None)

    def current_config(self) -> ModelConfig | None:
        """`config`, if there is one, with the quantizer as it is now, after a schedule or after learning."""
        if self.config is None or self.quantizer is None:
            return self.config
        return replace(self.config, quantizer=QuantizerConfig(**self.quantizer.settings()))

    @property
    def network(self) -> nn.Sequential:
        """Everything behind the quantizer."""
        return nn.Sequential(OrderedDict((k, part) for k, part in self.named_children() if k != "quantize"))

    def forward_features(self, images: Tensor) -> Tensor:
        """The backbone's last feature map (timm's `forward_features`) of images (B, C, H, W) in [0, 1]."""
        for name, part in self.named_children():
            images = part.forward_features(images) if name == "backbone" else part(images)
        return images

    def with_quantizer(self, quantizer: SoftQuantization) -> PixelClassifier:
        """The same weights behind another quantizer; a model without one stays without."""
        parts = OrderedDict(self.named_children())
        if self.quantizer is not None:
            parts["quantize"] = quantizer.train(self.training)
        model = PixelClassifier(parts, self.config)
        model.training = self.training
        return model


def with_head(model: PixelClassifier, num_classes: int) -> PixelClassifier:
    """`model` itself with a head of `num_classes` random logits, its front end and its other weights as they are.

    With 0 it gives pooled features (B, D). Raises: InputError if the architecture can have no such head.
    """
    if num_classes < 0:
        raise InputError(f"num_classes={num_classes} is not 0 (pooled features) or more.")
    replace_head(model.backbone, model.config.architecture, num_classes)
    names = tuple(str(number) for number in range(num_classes))
    model.config = replace(model.config, class_names=names)
    return model.train(model.training)


def as_feature_maps(model: PixelClassifier) -> PixelClassifier:
    """The same front end and weights; gives a list of feature maps, (B, C_i, H_i, W_i) each, for images in [0, 1].

    `model.backbone.feature_info` says what they are. Raises: InputError where timm can take none.
    """
    config = model.config
    parts = OrderedDict(model.named_children())
    parts["backbone"] = feature_maps(
        config.architecture, model.backbone.state_dict(), len(config.class_names), config.num_channels
    )
    return PixelClassifier(parts, config).eval()


def build_model(config: ModelConfig) -> PixelClassifier:
    """The model that `config` describes, with random weights.

    Raises: InputError for an architecture that timm lacks or a quantizer that cannot be.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if config.quantizer is not None:
        parts["quantize"] = SoftQuantization(**asdict(config.quantizer))
    parts["normalize"] = Normalize(config.mean, config.std)
    parts["backbone"] = create_backbone(config.architecture, len(config.class_names), config.num_channels)
    return PixelClassifier(parts, config)
