"""Trained weights in one line: from a folder, a checkpoint, a released name, an address, or the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

from lightning_sq.errors import InputError
from lightning_sq.hub.sources import fetch, no_such_source
from lightning_sq.models import ModelConfig, PixelClassifier, backbone, build_model
from lightning_sq.models.build import as_feature_maps, with_head
from lightning_sq.models.checkpoint_format import TrainedModel, read_checkpoint
from lightning_sq.models.release_format import read_release
from lightning_sq.models.weights_file import file_state
from lightning_sq.paths import expanded
from lightning_sq.release_files import RELEASE_FILES, SUMS_FILE, WEIGHTS_FILE


def load(
    source: str | Path,
    *,
    features: bool = False,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> PixelClassifier:
    """A trained model in eval mode: images (B, C, H, W) in [0, 1] in, logits (B, classes) out.

    Args:
        source: A release folder; a Lightning checkpoint that `lightning-sq fit` wrote; the name of a released model;
            the address of a folder with a release, `https://.../folder/`, and `#sha256=DIGEST` of its SHA256SUMS if it
            is to be that one; `hf-hub:org/name`, and `@revision`; or an undefended ImageNet-1k model of timm,
            `timm:resnet50` (downloaded by timm) or `timm:resnet50@weights.safetensors`.
        features: Feature maps instead of logits, a list of (B, C_i, H_i, W_i), as timm's `features_only`;
            `model.backbone.feature_info` says what they are.
        num_classes: A new head of so many random logits; 0 for pooled features (B, D).
        class_names: What the new logits are of, in order: the names of class folders, by which `lightning-sq evaluate`
            finds images. Without them classes are named by their numbers.
    Returns: `model.backbone` is a plain timm model, `model.forward_features(images)` its last feature map.
        `lightning_sq.save` makes a release of it.
    Raises: InputError if it is missing, damaged, or something else. Nothing that the file contains is run.
    Example:
        >>> model = lightning_sq.load("runs/demo/release")        # doctest: +SKIP
        >>> model(images).argmax(1)                               # doctest: +SKIP
    """
    if features and num_classes is not None:
        raise InputError("features=True has no head, so leave out num_classes.")
    if num_classes is not None and (isinstance(num_classes, bool) or not isinstance(num_classes, Integral)):
        raise InputError(f"num_classes={num_classes!r} is not a whole number. Write 7, or 0 for pooled features.")
    if class_names is not None and num_classes is None:
        raise InputError("class_names are those of a new head. Give num_classes too.")
    model = read_trained(source).build()
    if features:
        return as_feature_maps(model)
    return model if num_classes is None else with_head(model, num_classes, class_names)


def read_trained(source: str | Path) -> TrainedModel:
    """Weights and description of anything that `load` takes."""
    if str(source).startswith("timm:"):
        return _timm_model(str(source).removeprefix("timm:"))
    path = expanded(source)
    if not path.exists():
        folder = fetch(str(source))
        if folder is None:
            raise no_such_source(source, timm=backbone.has_weights(str(source)))
        return read_release(folder)
    if path.is_dir():
        return read_release(path)
    if path.name == WEIGHTS_FILE or (path.name in RELEASE_FILES and (path.parent / SUMS_FILE).exists()):
        raise InputError(f"{path} is one file of a release. Give the folder that it lies in.")
    return read_checkpoint(path)


def _timm_model(text: str) -> TrainedModel:
    architecture, _, file = text.partition("@")
    mean, std = backbone.pretrained_normalization(architecture)
    image_size, resize_size = backbone.evaluation_sizes(architecture)
    backbone.warn_of_squashed(architecture)
    names = backbone.imagenet_class_names(1000)
    config = ModelConfig(architecture, names, mean, std, image_size, resize_size)
    model = build_model(config)
    state = file_state(file, named_by=f"timm:{architecture}@FILE") if file else backbone.pretrained_state(architecture)
    skipped = backbone.load_backbone(model.backbone, state, source=file or f"timm's {architecture}")
    if skipped:
        raise InputError(
            f"{file or architecture} has another head than one of ImageNet-1k's 1000 classes ({skipped[0]}), and no "
            "names for its classes. Evaluate it in Python, by lightning_sq.evaluate."
        )
    return TrainedModel(config, model.state_dict())
