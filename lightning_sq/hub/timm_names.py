"""Released models under timm's names: `timm.create_model("resnet50.sq_in1k", pretrained=True)`.

timm looks a tag up in its registry and calls the architecture's own function, which knows nothing of a quantizer. So
that function is wrapped, for the architectures that something was released of. Asked for one of our tags it downloads
the release, lets timm load the backbone as it loads its own weights (`num_classes`, `features_only` and so on work),
and puts quantizer and normalisation in front of the first convolution. What comes out is timm's model with timm's
state-dict keys, and it takes pixels in [0, 1], which its `pretrained_cfg` says.

Without `pretrained=True` the weights are random and the front end is the same: a tag is one network, so weights that
were saved from it load into it again. Its front end is in no state-dict key, and so `resnet50` without the tag would
take these weights too, and answer wrongly.

This file is read as soon as timm has been, be it by `models/backbone` in the middle of its own import. So `models` is
imported where a model is made, and not up here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import timm.models
from timm.models import PretrainedCfg, _registry
from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.hub.cache import fetch_entry
from lightning_sq.hub.download import UnreachableError
from lightning_sq.hub.registry import RegistryEntry
from lightning_sq.layers import SoftQuantization
from lightning_sq.release_files import LIBRARY
from lightning_sq.words import counted

if TYPE_CHECKING:
    from lightning_sq.models import ModelConfig, PixelClassifier, QuantizerConfig

FRONT = "front_end"
"""Name of the module in the first convolution."""
OF_THE_ARCHITECTURE = ("min_input_size", "fixed_input_size", "pool_size", "first_conv", "classifier")
"""What timm says of an architecture whichever its weights; all else is of some weights."""


def register(entry: RegistryEntry) -> None:
    """Make timm know this name; one that it knows already stays what it is.

    Raises: InputError for an architecture that timm lacks.
    """
    if entry.name in _registry._model_pretrained_cfgs:
        return
    if not timm.is_model(entry.architecture):
        from lightning_sq.models import small_networks  # noqa: F401 - which timm knows of from here on
    if not timm.is_model(entry.architecture):
        raise InputError(f"{entry.name} is of an architecture that this timm lacks. Update timm.")
    known = timm.get_pretrained_cfg(entry.architecture) or PretrainedCfg()
    _registry._model_pretrained_cfgs[entry.name] = PretrainedCfg(
        url=entry.url,
        architecture=entry.architecture,
        tag=entry.tag,
        num_classes=entry.num_classes,
        mean=(0.0,) * entry.input_size[0],
        std=(1.0,) * entry.input_size[0],
        **{name: getattr(known, name) for name in OF_THE_ARCHITECTURE},
        **preprocessing(entry.input_size, entry.resize_size),
        notes=(LIBRARY,),
    )
    _registry._model_has_pretrained.add(entry.name)
    _registry._model_with_tags[entry.architecture].append(entry.name)
    _wrap(entry)


def preprocessing(input_size: tuple[int, int, int], resize_size: int | None) -> dict[str, Any]:
    """What makes timm's transforms cut images as `data.crop` does: the shorter side to `resize_size`, and the centre.

    Args:
        input_size: (C, H, W).
        resize_size: None where it is not known: timm's own share of the image then, 7/8.
    """
    found = {"input_size": input_size, "interpolation": "bilinear", "crop_mode": "center"}
    return found if resize_size is None else found | {"crop_pct": _crop_share(input_size[-1], resize_size)}


def _crop_share(image_size: int, resize_size: int) -> float:
    """The share of which timm makes `resize_size` again, by rounding image_size / share down."""
    share = image_size / resize_size
    return share if math.floor(image_size / share) == resize_size else math.nextafter(share, 0)


def _wrap(entry: RegistryEntry) -> None:
    original = timm.models.model_entrypoint(entry.architecture)

    @wraps(original)
    def create(pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
        said = _said(entry, pretrained_cfg)
        ours = said.get("tag") == entry.tag and LIBRARY in (said.get("notes") or ())
        make = partial(_released, entry, original) if ours else original
        return make(pretrained=pretrained, pretrained_cfg=pretrained_cfg, **options)

    _registry._model_entrypoints[entry.architecture] = create


def _said(entry: RegistryEntry, pretrained_cfg: Any) -> dict[str, Any]:
    """timm hands on a tag, or a whole description: of a model that was saved, it is the one beside its weights."""
    if pretrained_cfg is None or isinstance(pretrained_cfg, str):
        return {"tag": pretrained_cfg, "url": entry.url, "notes": (LIBRARY,)}
    return pretrained_cfg if isinstance(pretrained_cfg, dict) else asdict(pretrained_cfg)


def _released(
    entry: RegistryEntry,
    original: Callable[..., nn.Module],
    *,
    pretrained: bool,
    pretrained_cfg: Any,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    from lightning_sq.models.backbone import forget_state_dict

    try:
        whole = _whole(entry, options.get("in_chans"))
    except UnreachableError as error:
        if pretrained:
            raise
        raise UnreachableError(
            f"{error} The quantizer of {entry.name} stands there, so it is needed without pretrained=True as well: "
            f"lightning-sq download {entry.name}, where there is a network."
        ) from error
    overlay: dict[str, Any] = {}
    if _said(entry, pretrained_cfg).get("url") == entry.url:  # else weights and images are others
        overlay |= preprocessing(_input_size(whole.config), whole.config.resize_size)
        overlay |= {"state_dict": OrderedDict(whole.backbone.state_dict())} if pretrained else {}
    overlay |= pretrained_cfg_overlay or {}
    model = original(pretrained=pretrained, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay, **options)
    forget_state_dict(model)
    _put_in_front(model, whole)
    return model


def _whole(entry: RegistryEntry, channels: int | None) -> PixelClassifier:
    """The released model. Raises: InputError where it cannot be had, or is not what was asked for."""
    from lightning_sq.models.release_format import read_release

    trained = read_release(fetch_entry(entry))
    config = trained.config
    if channels not in (None, config.num_channels):
        raise InputError(f"{entry.name} takes images of {counted(config.num_channels, 'channel')}, not of {channels}.")
    said = (entry.architecture, entry.num_classes, entry.input_size, entry.resize_size or config.resize_size)
    if (config.family, len(config.class_names), _input_size(config), config.resize_size) != said:
        raise InputError(f"The release of {entry.name} is not what its entry in the registry says. Do not use it.")
    return trained.build()  # refuses weights that do not fit, which timm would pass over


def _input_size(config: ModelConfig) -> tuple[int, int, int]:
    return config.num_channels, config.image_size, config.image_size


def _put_in_front(model: nn.Module, whole: PixelClassifier) -> None:
    """Quantizer and normalisation of `whole` before the first convolution of `model`; no state-dict key is added."""
    conv = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
    named = whole.backbone.pretrained_cfg.get("first_conv")
    names = [named] if isinstance(named, str) else list(named or [])
    first = next(part for part in whole.backbone.modules() if isinstance(part, nn.Conv2d))
    if len(names) > 1 or any(whole.backbone.get_submodule(name) is not first for name in names):
        raise InputError(f"{whole.config.architecture} has no one first convolution. Use lightning_sq.load.")
    quantizer = whole.current_config().quantizer
    front = nn.Sequential() if quantizer is None else nn.Sequential(_as_it_is(quantizer))
    normalize = whole.normalize
    for name, value in list(normalize.named_buffers()):
        normalize.register_buffer(name, value, persistent=False)
    conv.add_module(FRONT, front.append(normalize).train(conv.training))
    conv.register_forward_pre_hook(_through_front)


def _as_it_is(quantizer: QuantizerConfig) -> SoftQuantization:
    """Nothing is learnt in it any more, so it holds no parameters."""
    layer = SoftQuantization(**asdict(replace(quantizer, learnable_sharpness=False)))
    if quantizer.learnable_thresholds:
        table = layer.thresholds.detach()
        del layer.thresholds
        layer.register_buffer("thresholds", table, persistent=False)
    return layer


def _through_front(conv: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (conv.get_submodule(FRONT)(inputs[0]), *inputs[1:])
