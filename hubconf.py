"""Entry points for torch.hub: `torch.hub.load(REPOSITORY, "release", "https://.../folder/")`, or a released name."""

from functools import partial as _partial

from lightning_sq import load as _load
from lightning_sq.hub.registry import entries as _entries

dependencies = ["torch", "timm", "torchvision", "safetensors", "numpy", "rich", "yaml"]


def release(source, **options):
    """What `lightning_sq.load(source, **options)` gives: pixels in [0, 1] in, logits out, in eval mode."""
    return _load(source, **options)


globals().update({name: _partial(_load, name) for name in _entries()})
