"""Recipes that are laid over each other, as `lightning-sq fit` does with several `--config`."""

from __future__ import annotations

from typing import Any


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` in their place, part by part; a list, or a class with its arguments, whole."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict) and "class_path" not in value
        merged[key] = laid_over(below[key], value) if both else value
    return merged
