"""What a recipe means where it says nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Of the arguments of a function or a class that have some, as a recipe would say them: a tuple is a list there."""
    given = inspect.signature(function).parameters.values()
    defaults = {one.name: one.default for one in given if one.default is not one.empty}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
