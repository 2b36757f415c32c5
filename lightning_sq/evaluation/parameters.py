"""An attack with other parameters, as it is typed: `pgd:num_steps=200:criterion=dlr`."""

from __future__ import annotations

import ast
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lightning_sq.errors import InputError

NOT_TYPED = ("attack", "source", "stage", "norm")
"""What makes an attack another one, or is said elsewhere."""


def with_parameters(attack: Any, settings: list[str]) -> Any:
    """`attack` with each `name=value` in place; one that it lacks is the attack's that it runs.

    Raises: InputError for a parameter that there is not, and for a value that it cannot have.
    """
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or not text:
            raise InputError(f"{setting!r} is no parameter of an attack. Write name=value, as in pgd:num_steps=200.")
        attack = _with(attack, name.strip(), text.strip(), known=parameters(attack))
    return attack


def parameters(attack: Any) -> dict[str, Any]:
    """Name -> value of whatever can be typed of `attack`, and of the attack that it runs."""
    if not is_dataclass(attack):
        return {}
    inner = parameters(getattr(attack, "attack", None))
    return inner | {name: getattr(attack, name) for name in _own(attack)}


def _own(attack: Any) -> list[str]:
    """Those of `attack` itself, but for what a stage of AutoAttack does not read."""
    left_out = (*NOT_TYPED, *getattr(attack, "unread", ()))
    return [field.name for field in fields(attack) if field.name not in left_out]


def _with(attack: Any, name: str, text: str, *, known: dict[str, Any]) -> Any:
    if is_dataclass(attack) and name in _own(attack):
        return replace(attack, **{name: _value(name, text, get_type_hints(type(attack))[name])})
    if name not in known:
        names = ", ".join(known) or "none"
        raise InputError(f"{type(attack).__name__} has no parameter {name!r}. It has: {names}.")
    return replace(attack, attack=_with(attack.attack, name, text, known=known))


def _value(name: str, text: str, kind: Any) -> Any:
    """`text` as what a field of type `kind` takes."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise InputError(f"{name}={text!r} is not one of {', '.join(get_args(kind))}.")
        return text
    if kind is str:
        return text
    kinds = get_args(kind) or (kind,)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if float in kinds and type(value) is int:
        value = float(value)
    if type(value) not in kinds:
        if name == "step_size":
            raise InputError(f"step_size is in radii of the ball: 0.1, not {text}.")
        names = " or ".join(getattr(one, "__name__", str(one)) for one in kinds)
        raise InputError(f"{name}={text!r} is no {names.replace('NoneType', 'None')}.")
    return value
