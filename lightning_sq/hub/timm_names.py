"""Released models under timm's names: `timm.create_model("resnet50.sq_in1k", pretrained=True)`.

timm looks a tag up in its registry and calls the architecture's own function, which knows nothing of a quantizer. So
that function is wrapped, for the architectures that something was released of: asked for one of our tags with
`pretrained=True` it downloads the release, lets timm load the backbone as it loads its own weights (`num_classes`,
`features_only` and so on work), and puts quantizer and normalisation in front of the first convolution. What comes out
is timm's model with timm's state-dict keys, and it takes pixels in [0, 1], which its `pretrained_cfg` says.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import timm.models
from timm.models import PretrainedCfg, _registry
from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.hub.cache import fetch_entry
from lightning_sq.hub.registry import RegistryEntry
from lightning_sq.layers import SoftQuantization
from lightning_sq.models.backbone import forget_state_dict
from lightning_sq.release_files import LIBRARY
from lightning_sq.words import counted

if TYPE_CHECKING:
    from lightning_sq.models import PixelClassifier, QuantizerConfig

FRONT = "front_end"
"""Name of the module in the first convolution."""


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
    _registry._model_pretrained_cfgs[entry.name] = replace(
        known,
        url=entry.url,
        file=None,
        state_dict=None,
        hf_hub_id=None,
        hf_hub_filename=None,
        architecture=entry.architecture,
        tag=entry.tag,
        custom_load=False,
        num_classes=entry.num_classes,
        input_size=entry.input_size,
        label_offset=None,
        mean=(0.0,) * entry.input_size[0],
        std=(1.0,) * entry.input_size[0],
        notes=(LIBRARY,),
    )
    _registry._model_has_pretrained.add(entry.name)
    _registry._model_with_tags[entry.architecture].append(entry.name)
    _wrap(entry)


def _wrap(entry: RegistryEntry) -> None:
    original = timm.models.model_entrypoint(entry.architecture)

    @wraps(original)
    def create(pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
        if not pretrained or pretrained_cfg != entry.tag:
            return original(pretrained=pretrained, pretrained_cfg=pretrained_cfg, **options)
        return _released(entry, original, options)

    _registry._model_entrypoints[entry.architecture] = create


def _released(entry: RegistryEntry, original: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    from lightning_sq.models.release_format import read_release

    trained = read_release(fetch_entry(entry))
    channels, config = options.get("in_chans", trained.config.num_channels), trained.config
    if channels != config.num_channels:
        raise InputError(f"{entry.name} takes images of {counted(config.num_channels, 'channel')}, not of {channels}.")
    if (config.architecture, len(config.class_names)) != (entry.architecture, entry.num_classes):
        raise InputError(f"The release of {entry.name} is not what its entry in the registry says. Do not use it.")
    whole = trained.build()  # refuses weights that do not fit, which timm would pass over
    overlay = {"state_dict": OrderedDict(whole.backbone.state_dict())} | (options.pop("pretrained_cfg_overlay") or {})
    model = original(pretrained=True, pretrained_cfg=entry.tag, pretrained_cfg_overlay=overlay, **options)
    forget_state_dict(model)
    _put_in_front(model, whole)
    return model


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
    conv.add_module(FRONT, front.append(normalize))
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
