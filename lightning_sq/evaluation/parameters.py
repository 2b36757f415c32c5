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
    texts = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or not text:
            raise InputError(f"{setting!r} is no parameter of an attack. Write name=value, as in pgd:num_steps=200.")
        texts[name.strip()] = text.strip()
    return _with(attack, texts, known=parameters(attack))


def parameters(attack: Any) -> dict[str, Any]:
    """Name -> value of whatever can be typed of `attack`, and of the attack that it runs."""
    if not is_dataclass(attack):
        return {}
    inner = parameters(getattr(attack, "attack", None))
    return inner | {name: getattr(attack, name) for name in _own(attack)}


def _own(attack: Any) -> list[str]:
    """Those of `attack` itself, but for what it does not read as it is."""
    left_out = (*NOT_TYPED, *getattr(attack, "unread", ()))
    return [field.name for field in fields(attack) if field.name not in left_out]


def _with(attack: Any, texts: dict[str, str], *, known: dict[str, Any]) -> Any:
    """All of an attack's own at once: one may be possible only with another."""
    for name in texts:
        if name not in known:
            names = ", ".join(known) or "none"
            raise InputError(f"{type(attack).__name__} has no parameter {name!r}. It has: {names}.")
    own = [name for name in texts if name in _own(attack)] if is_dataclass(attack) else []
    kinds = get_type_hints(type(attack))
    values = {name: _value(name, texts[name], kinds[name]) for name in own}
    if inner := {name: text for name, text in texts.items() if name not in own}:
        values["attack"] = _with(attack.attack, inner, known=known)
    return replace(attack, **values) if values else attack


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
