"""Entry points for torch.hub: `torch.hub.load(REPOSITORY, "release", "https://.../folder/")`, or a released name."""

import warnings as _warnings
from functools import partial as _partial

from lightning_sq import load as _load
from lightning_sq.errors import InputError as _InputError
from lightning_sq.hub import registry as _registry

dependencies = ["torch", "timm", "torchvision", "safetensors", "numpy", "rich", "yaml"]


def release(source, **options):
    """What `lightning_sq.load(source, **options)` gives: pixels in [0, 1] in, logits out, in eval mode."""
    return _load(source, **options)


def _released():
    """The names; a list that cannot be read takes away those of its own, and not the loading of a folder."""
    try:
        return _registry.entries()
    except _InputError as error:
        _warnings.warn(f"Of the released models only the package's own have names here: {error}", stacklevel=2)
        return _registry.own_entries()


globals().update({name: _partial(_load, name) for name in _released()})
