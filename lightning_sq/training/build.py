"""From a recipe's values to a ready ClassifierModule: what `model:` in a YAML file means."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.backbone import (
    check_image_size,
    load_backbone,
    pretrained_normalization,
    pretrained_state,
)
from lightning_sq.models.weights_file import file_state
from lightning_sq.objectives import Natural, Objective
from lightning_sq.training.module import ClassifierModule
from lightning_sq.training.optim import Optimization


def build_module(
    class_names: Sequence[str],
    image_size: int,
    resize_size: int,
    channels: int = 3,
    architecture: str = "resnet18",
    pretrained: bool = False,
    checkpoint_path: str | None = None,
    quantizer: QuantizerConfig | None = None,
    objective: Objective | None = None,
    optimization: Optimization | None = None,
    seed: int = 0,
) -> ClassifierModule:
    """A timm model behind a soft-quantization layer, ready to be trained.

    Args:
        class_names: From the data.
        image_size: From the data.
        resize_size: From the data.
        channels: From the data.
        architecture: Any timm model name.
        pretrained: Start from the weights that timm downloads.
        checkpoint_path: Start from a local file of backbone weights instead, .safetensors or what torch.save wrote, a
            checkpoint of timm, torchvision or Lightning too, if it holds tensors alone; see `file_state`.
        quantizer: The layer in front; null for none.
        objective: What is minimised; plain cross-entropy on natural samples if left out.
        optimization: Learning rate, momentum, weight decay and warm-up.
        seed: Of the noise.
    Raises: InputError for a model that timm lacks or that takes no such images, weights that cannot be had, or a hard
        quantizer that is to learn its thresholds.
    """
    if quantizer is not None and quantizer.hard and quantizer.learnable_thresholds:
        raise InputError(
            "A hard quantizer gives its thresholds no gradient to learn by. "
            "Leave out --model.quantizer.hard or --model.quantizer.learnable_thresholds."
        )
    mean, std = pretrained_normalization(architecture, channels)
    config = ModelConfig(architecture, tuple(class_names), mean, std, image_size, resize_size, quantizer)
    model = build_model(config)
    check_image_size(model, architecture, image_size, len(class_names), channels)
    if checkpoint_path is not None:
        _start_from(model.backbone, file_state(checkpoint_path), source=checkpoint_path)
    elif pretrained:
        _start_from(model.backbone, pretrained_state(architecture, channels), source=f"timm's {architecture}")
    return ClassifierModule(model, objective or Natural(), optimization or Optimization(), seed)


def _start_from(backbone: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    skipped = load_backbone(backbone, state, source=source)
    head = f"; a new head for these classes ({', '.join(skipped)})" if skipped else ""
    rank_zero_info(f"Weights from {source}{head}")
