"""Assembles the model: a visible pipeline from pixels to logits."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from lightning_sq.errors import InputError, one_line
from lightning_sq.layers import Normalize, SoftQuantization
from lightning_sq.models.backbone import create_backbone, feature_maps, replace_head, with_known_tag
from lightning_sq.ops.staircases import Staircase
from lightning_sq.words import counted


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

    @property
    def family(self) -> str:
        """`architecture` without the tag of the weights of timm's that training began from."""
        return self.architecture.partition(".")[0]

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
            config = cls(
                architecture=str(values["architecture"]),
                class_names=tuple(str(name) for name in values["class_names"]),
                mean=tuple(float(value) for value in values["mean"]),
                std=tuple(float(value) for value in values["std"]),
                image_size=int(values["image_size"]),
                resize_size=int(values["resize_size"]),
                quantizer=None if quantizer is None else QuantizerConfig(**quantizer),
            )
            config.check()
            return config
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"The model's description cannot be read ({one_line(error)}). Export the checkpoint again."
            ) from None

    def check(self) -> None:
        """Raises: ValueError for what no training gives."""
        if min(self.image_size, self.resize_size) < 1:
            raise ValueError(f"images of {self.image_size} cut from {self.resize_size} pixels")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std, default=1.0) <= 0:
            raise ValueError(f"a mean of {self.mean} and a standard deviation of {self.std}")


class PixelClassifier(nn.Sequential):
    """`quantize` (if the model has one), `normalize`, `backbone`: images (B, C, H, W) in [0, 1] to logits (B, classes).

    `print(model)` is the method's diagram, and `model.backbone.state_dict()` loads into plain timm. It begins in the
    mode of its parts: in training mode if all of them are.

    Raises: InputError for images of integers.
    """

    def __init__(self, parts: OrderedDict[str, nn.Module], config: ModelConfig | None = None) -> None:
        super().__init__(parts)
        self.config = config
        self.training = all(part.training for part in parts.values())

    @property
    def quantizer(self) -> nn.Module | None:
        """The soft-quantization layer, or what `with_quantizer` put in its place, or None."""
        return getattr(self, "quantize", None)

    def current_config(self) -> ModelConfig | None:
        """`config`, if there is one, with the quantizer as it is now, after a schedule or after learning.

        Raises: InputError for a quantizer that is no `SoftQuantization`, or one with a forward method of its own: a
            description has words for that one alone.
        """
        if self.config is None or self.quantizer is None:
            return self.config
        if type(self.quantizer).forward is not SoftQuantization.forward:
            raise InputError(
                f"The model's quantizer is a {type(self.quantizer).__name__}, and a description has words for a "
                "SoftQuantization alone. Put one with the same levels and thresholds in front by with_quantizer."
            )
        return replace(self.config, quantizer=QuantizerConfig(**self.quantizer.settings()))

    @property
    def network(self) -> nn.Sequential:
        """Everything behind the quantizer, in the mode of the model."""
        behind = nn.Sequential(OrderedDict((k, part) for k, part in self.named_children() if k != "quantize"))
        behind.training = self.training
        return behind

    def forward_features(self, images: Tensor) -> Tensor:
        """The backbone's last feature map (timm's `forward_features`) of images (B, C, H, W) in [0, 1]."""
        for name, part in self.named_children():
            images = part.forward_features(images) if name == "backbone" else part(images)
        return images

    def with_quantizer(self, quantizer: Callable[[Tensor], Tensor]) -> PixelClassifier:
        """The same weights behind another quantizer; a model that has none gets it in front.

        Args:
            quantizer: A `SoftQuantization`, or any module or function from pixels to pixels; put into the model's mode.
        Raises: InputError for what is no function.
        """
        if not callable(quantizer):
            raise InputError(
                f"quantizer={quantizer!r} is no function of pixels. Give a SoftQuantization, a module or a function; "
                "without a quantizer the model is model.network."
            )
        layer = quantizer if isinstance(quantizer, nn.Module) else FunctionLayer(quantizer)
        parts = OrderedDict(self.named_children()) | {"quantize": layer.train(self.training)}
        parts.move_to_end("quantize", last=False)
        model = PixelClassifier(parts, self.config)
        model.training = self.training
        return model


class FunctionLayer(nn.Module):
    """A function as a part of a model."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


def with_head(model: PixelClassifier, num_classes: int, class_names: Sequence[str] | None = None) -> PixelClassifier:
    """`model` itself with a head of `num_classes` random logits, its front end and its other weights as they are.

    With 0 it gives pooled features (B, D).

    Args:
        model: Changed in place.
        num_classes: Logits of the new head.
        class_names: One for each, in order; their numbers if left out.
    Raises: InputError if the architecture can have no such head, or the names do not go with it.
    """
    if num_classes < 0:
        raise InputError(f"num_classes={num_classes} is not 0 (pooled features) or more.")
    given = [class_names] if isinstance(class_names, str) else class_names
    names = tuple(map(str, range(num_classes) if given is None else given))
    if not len(names) == len(set(names)) == num_classes:
        raise InputError(
            f"class_names has {counted(len(names), 'name')}, of which {len(set(names))} differ, and num_classes is "
            f"{num_classes}. Give each logit a name of its own, in order."
        )
    replace_head(model.backbone, model.config.architecture, num_classes)
    model.config = replace(model.config, class_names=names)
    return model.train(model.training)


def as_feature_maps(model: PixelClassifier) -> PixelClassifier:
    """The same front end and weights; gives a list of feature maps, (B, C_i, H_i, W_i) each, for images in [0, 1].

    `model.backbone.feature_info` says what they are. Raises: InputError where timm can take none.
    """
    config = model.config
    parts = OrderedDict(model.named_children())
    parts["backbone"] = feature_maps(
        with_known_tag(config.architecture), model.backbone.state_dict(), len(config.class_names), config.num_channels
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
