"""Recipes that are read and laid over each other, as `lightning-sq fit` does with several `--config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_layer(file: Path) -> Any:
    """What a recipe file says, numbers as `fit` reads them: to yaml alone 1e-4 is text.

    Raises: OSError, UnicodeDecodeError, yaml.YAMLError.
    """
    from jsonargparse import get_loader

    return get_loader("yaml")(file.read_text())


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` in their place, part by part; a list, or a class with its arguments, whole."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict) and "class_path" not in value
        merged[key] = laid_over(below[key], value) if both else value
    return merged
