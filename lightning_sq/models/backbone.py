"""timm behind one small door: only this file, `small_networks`, which adds to it, and `hub/timm_names` import timm."""

from __future__ import annotations

import difflib
import os
import warnings
from contextlib import suppress
from importlib import import_module
from statistics import fmean
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from lightning_sq.errors import InputError, one_line
from lightning_sq.layers.eval_mode import in_eval_mode
from lightning_sq.models import small_networks  # noqa: F401 - timm knows its names from here on
from lightning_sq.models.weights_file import UNTRACKED, without_prefix
from lightning_sq.release_files import LIBRARY
from lightning_sq.words import counted

IMPORT_VARIABLE = "LIGHTNING_SQ_IMPORT"


def _import_own() -> None:
    """The modules that $LIGHTNING_SQ_IMPORT names, with commas: they register networks with timm.

    Raises: InputError for one that cannot be imported.
    """
    for module in filter(None, map(str.strip, os.environ.get(IMPORT_VARIABLE, "").split(","))):
        try:
            import_module(module)
        except ImportError as error:
            raise InputError(
                f"${IMPORT_VARIABLE} names {module}, which cannot be imported ({one_line(error)}). "
                "It has to be installed, or to lie on PYTHONPATH."
            ) from error


def check_architecture(name: str) -> str:
    """`name` itself, or an InputError with the nearest names that timm has."""
    _import_own()
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"Nearest: {', '.join(near)}" if near else "See timm.list_models()"
        raise InputError(
            f"timm has no model named {name!r}. {hint}. Of your own: name its module in ${IMPORT_VARIABLE}."
        )
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag, behind the dot, that timm lacks
        tags = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}.*")[:5])
        raise InputError(f"timm has no weights named {name!r}. It has: {tags or 'none for this model'}.") from None
    if known is not None and LIBRARY in (known.notes or ()):
        raise InputError(
            f"{name} is a release with a front end of its own. To train on from it set --model.architecture "
            f"{name.split('.')[0]} and --model.checkpoint_path to its model.safetensors (lightning-sq download {name})."
        )
    return name


def with_known_tag(name: str) -> str:
    """`name` without its tag if this timm lacks that: where no weights of timm's are wanted it changes nothing."""
    with suppress(InputError):
        return check_architecture(name)
    return name.partition(".")[0]


def has_weights(name: str) -> bool:
    """Whether timm has weights of its own under this name, with or without a tag."""
    return timm.models.is_model_pretrained(name) and LIBRARY not in (timm.get_pretrained_cfg(name).notes or ())


def registered_by(architecture: str) -> str:
    """The package that told timm of the architecture: "timm" itself, "lightning_sq", or another."""
    return timm.models.model_entrypoint(architecture.partition(".")[0]).__module__.partition(".")[0]


def pretrained_normalization(architecture: str, channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) a channel that the architecture's pretrained weights were trained with, in pixel units.

    For another number of channels than those had, each gets the average of theirs.
    """
    config = timm.get_pretrained_cfg(check_architecture(architecture))
    if config is None:
        config = PretrainedCfg(mean=timm.data.IMAGENET_DEFAULT_MEAN, std=timm.data.IMAGENET_DEFAULT_STD)
    return tuple(_per_channel(values, channels) for values in (config.mean, config.std))


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (fmean(values),) * channels


def imagenet_class_names(num_classes: int) -> tuple[str, ...]:
    """The synsets of ImageNet-1k in the order of its logits, which are the names of its class folders."""
    if num_classes != 1000:
        raise InputError(f"Only ImageNet-1k models are known by name; this one has {counted(num_classes, 'class')}.")
    return tuple(timm.data.ImageNetInfo("imagenet-1k").label_names())


def evaluation_sizes(architecture: str) -> tuple[int, int]:
    """(image size, shorter side before the centre crop) of the images that the pretrained weights are from.

    For some timm publishes the accuracy on larger ones (`test_input_size`), resized bicubically. Of those that timm
    squashes `warn_of_squashed` warns.
    """
    config = timm.get_pretrained_cfg(check_architecture(architecture))
    image_size = config.input_size[-1] if config else 224
    return image_size, int(image_size / (config.crop_pct if config else 0.875))


def warn_of_squashed(architecture: str) -> None:
    """Warns where timm squashes the images for these weights: nothing here does, so accuracies are a little lower."""
    config = timm.get_pretrained_cfg(check_architecture(architecture))
    if config is not None and config.crop_mode == "squash":
        warnings.warn(
            f"timm squashes images to a square for {architecture}, and here the centre of each is cut out: the "
            "accuracy is another than timm's.",
            stacklevel=3,
        )


def check_image_size(model: nn.Module, architecture: str, image_size: int, num_classes: int, channels: int = 3) -> None:
    """One forward pass over nothing, in eval mode, before anything costs time.

    Raises: InputError if `model` takes no images of `image_size` x `image_size` pixels or gives no logits.
    """
    try:
        with torch.no_grad(), in_eval_mode(model):
            logits = model(torch.zeros(1, channels, image_size, image_size))
    except Exception as error:  # each architecture refuses in its own way
        raise InputError(
            f"{architecture} takes no images of {image_size} x {image_size} pixels ({one_line(error)}). "
            f"Its own size is {evaluation_sizes(architecture)[0]}: set image_size, or --data.image_size "
            f"{evaluation_sizes(architecture)[0]}, or choose another --model.architecture."
        ) from error
    if getattr(logits, "shape", None) != (1, num_classes):
        raise InputError(
            f"{architecture} does not give one logit for each of {counted(num_classes, 'class')}. "
            "Choose another --model.architecture."
        )


def create_backbone(architecture: str, num_classes: int, channels: int = 3) -> nn.Module:
    """A timm model with random weights and a head of `num_classes` logits."""
    return timm.create_model(check_architecture(architecture), num_classes=num_classes, in_chans=channels)


def replace_head(backbone: nn.Module, architecture: str, num_classes: int) -> None:
    """Give `backbone` a head of `num_classes` random logits; 0 takes the head away and leaves pooled features.

    Raises: InputError if the architecture cannot.
    """
    try:
        backbone.reset_classifier(num_classes)
    except Exception as error:  # each architecture refuses in its own way
        raise InputError(
            f"{architecture} cannot have a head of {counted(num_classes, 'class')} ({type(error).__name__}). "
            "Take 0 for pooled features, a number of at least 1, or another model."
        ) from error


def feature_maps(architecture: str, state: dict[str, Tensor], num_classes: int, channels: int = 3) -> nn.Module:
    """The architecture without its head: a list of feature maps, one a stage, with timm's `feature_info`.

    Args:
        architecture: A timm model name.
        state: Weights of the whole backbone, as `create_backbone(architecture, num_classes, channels)` has them.
    Raises: InputError for an architecture that timm can take no features from.
    """
    overlay = {"state_dict": dict(state), "num_classes": num_classes}
    options = {"features_only": True, "in_chans": channels, "pretrained_cfg_overlay": overlay, "pretrained": True}
    try:
        features = timm.create_model(check_architecture(architecture), **options)
    except (AttributeError, TypeError, RuntimeError, AssertionError) as error:  # what architectures raise who cannot
        raise InputError(
            f"timm takes no feature maps from {architecture} ({type(error).__name__}). "
            "Leave out features=True, and use model.backbone or num_classes=0."
        ) from error
    forget_state_dict(features)
    return features.eval()


def forget_state_dict(model: nn.Module) -> None:
    """Take the weights that timm was lent by `pretrained_cfg_overlay` out of what it keeps of them."""
    for part in model.modules():
        getattr(part, "pretrained_cfg", {}).pop("state_dict", None)


def pretrained_state(architecture: str, channels: int = 3) -> dict[str, Tensor]:
    """The weights that timm downloads for `architecture`, its first layer made to take so many channels.

    Raises: InputError where they cannot be had, with the option that needs no network.
    """
    try:
        return timm.create_model(check_architecture(architecture), pretrained=True, in_chans=channels).state_dict()
    except Exception as error:  # timm and its hub raise many kinds; the way out is the same for all
        raise InputError(
            f"The pretrained weights of {architecture} could not be downloaded ({type(error).__name__}). "
            "Read a local file: timm:NAME@FILE, or --model.pretrained false --model.checkpoint_path FILE.safetensors."
        ) from error


def load_backbone(backbone: nn.Module, state: dict[str, Tensor], *, source: str) -> list[str]:
    """Put pretrained weights into `backbone`; a head of another size stays as it was made.

    Args:
        backbone: Of timm.
        state: Its tensors, which may stand behind one prefix; see `without_prefix`.
        source: For messages.
    Returns: the names of the tensors that were left as they are because the head has other classes.
    Raises: InputError if anything but the head does not fit.
    """
    own = backbone.state_dict()
    state = without_prefix(state, own, source=source)
    config = getattr(backbone, "pretrained_cfg", None) or {}  # a network that timm was told of may have none
    classifier = config.get("classifier") or ()
    head = classifier if isinstance(classifier, str) else tuple(classifier)
    skipped = [key for key in state if key in own and key.startswith(head) and state[key].shape != own[key].shape]
    wrong = sorted(
        {key for key in own.keys() ^ state.keys() if not key.endswith(UNTRACKED)}
        | {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape and key not in skipped}
    )
    if wrong:
        raise InputError(
            f"{source} does not fit the model: {counted(len(wrong), 'difference')}, the first in {wrong[0]!r}. "
            "Name the architecture that the weights are for: --model.architecture, or NAME in timm:NAME@FILE."
        )
    kept: dict[str, Any] = {key: value for key, value in state.items() if key not in skipped}
    backbone.load_state_dict({**own, **kept})
    return skipped
