"""Soft-quantization networks trained on noisy natural samples, and robustness numbers that can be believed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_sq.hub.on_import import register_with_timm

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_sq.evaluation import evaluate
    from lightning_sq.layers import SoftQuantization
    from lightning_sq.release import load
    from lightning_sq.releasing.save import save

_HOMES = {
    "SoftQuantization": "lightning_sq.layers",
    "evaluate": "lightning_sq.evaluation",
    "load": "lightning_sq.release",
    "save": "lightning_sq.releasing.save",
}

__all__ = ["SoftQuantization", "__version__", "evaluate", "load", "save"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `lightning-sq --help` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """For completion, which asks before anything is imported."""
    return sorted({*globals(), *_HOMES})


register_with_timm()
