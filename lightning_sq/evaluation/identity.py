"""By what kept verdicts are known again: the model, the images, and the attacks with whatever they depend on.

What is said of a thing is the same in the next process: no address in memory, no order that a hash has made.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sq import __version__
from lightning_sq.attacks.front_end import Quantizer
from lightning_sq.attacks.interface import Model
from lightning_sq.evaluation.store import LOGITS
from lightning_sq.ops.tensor_digest import add_tensors

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""In the `repr` of an object that has none of its own."""
PLAIN = (type(None), bool, int, float, str)


def identity_of(
    model: Model,
    quantizer: Quantizer | None,
    images: Tensor,
    labels: Tensor,
    sources: dict[str, Model],
    logits: dict[str, Tensor],
) -> dict[str, Any]:
    """What kept verdicts are about, and by which code.

    Args:
        quantizer: That the caller gave.
        sources: Other models, by name.
        logits: What each model says of a few images.
    """
    return {
        "lightning_sq": __version__,
        "torch": torch.__version__,
        "model": _weights(model),
        "beside_weights": {name: _beside_weights(one) for name, one in {"the model": model, **sources}.items()}
        | {"quantizer": None if quantizer is None else _digest(described(quantizer))},
        "images": hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest(),
        "labels": hashlib.sha256(labels.cpu().contiguous().numpy()).hexdigest(),
        "transfer_from": {name: _weights(other) for name, other in sources.items()},
        LOGITS: {name: few[:4].tolist() for name, few in logits.items()},
    }


def _weights(model: Model) -> str:
    """Their digest, if the model has some."""
    digest = hashlib.sha256()
    if isinstance(model, nn.Module):
        add_tensors(digest, model.state_dict())
    return digest.hexdigest()


def _beside_weights(model: Model) -> str | None:
    """The digest of what a state_dict does not tell: buffers that are not kept, and plain attributes of each part."""
    if not isinstance(model, nn.Module):
        return None
    digest, kept = hashlib.sha256(), model.state_dict()
    add_tensors(digest, {name: value for name, value in model.named_buffers() if name not in kept})
    for name, part in model.named_modules():
        plain = {key: one for key, one in vars(part).items() if isinstance(one, PLAIN) and key != "training"}
        digest.update(json.dumps([name, plain], sort_keys=True).encode())
    return digest.hexdigest()


def parameters_of(attack: Any) -> dict[str, Any]:
    """Every parameter of an attack, as it stands in results.json; of one that is not ours also digests of its code and
    of all that it holds: two functions of one name are two attacks.
    """
    if is_dataclass(attack):
        values = {field.name: getattr(attack, field.name) for field in fields(attack) if field.name != "source"}
        return {"kind": type(attack).__name__} | {name: _parameter(value) for name, value in values.items()}
    kind = {"kind": getattr(attack, "__qualname__", type(attack).__name__)}
    if (function := _function_of(attack)) is not None:
        kind["code"] = _digest(_code(function.__code__))
    state = _state(attack, ())
    return kind | ({"state": _digest(state)} if state else {})


def _parameter(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value
    return parameters_of(value) if is_dataclass(value) or callable(value) else described(value)


def described(value: Any, around: tuple[int, ...] = ()) -> Any:
    """Plain values, as in JSON, that tell `value` from others.

    Args:
        value: Anything.
        around: The ids of what holds it, which it may hold in turn.
    """
    if isinstance(value, PLAIN):
        return value
    if id(value) in around:
        return "itself"
    around = (*around, id(value))
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Tensor):
        return _digest_of_tensors({"": value})
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, Mapping):
        return _sorted([[described(key, around), described(one, around)] for key, one in value.items()])
    if isinstance(value, (set, frozenset)):
        return _sorted([described(one, around) for one in value])
    if isinstance(value, (list, tuple)):
        return [described(one, around) for one in value]
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    function = _function_of(value)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return [name, None if function is None else _code(function.__code__), _state(value, around)]


def _function_of(value: Any) -> Any:
    """The Python function that is run where `value` is called; None for one of C, and for what is not called."""
    is_one = isinstance(value, (FunctionType, MethodType))
    name = "forward" if isinstance(value, nn.Module) else "__call__"
    function = value if is_one else inspect.getattr_static(type(value), name, None)
    return function if hasattr(function, "__code__") else None


def _state(value: Any, around: tuple[int, ...]) -> Any:
    """What a function has closed over and what it takes unasked; what an object holds. Empty where that is nothing."""
    if isinstance(value, nn.Module):
        return [ADDRESS.sub("", repr(value)), _weights(value), _beside_weights(value)]
    if isinstance(value, FunctionType):
        closed_over = [_content(cell) for cell in value.__closure__ or ()]
        held = closed_over, value.__defaults__, value.__kwdefaults__, value.__dict__
        return described(held, around) if any(held) else []
    try:  # as pickle has it: what makes the same object in another process
        reduced = value.__reduce_ex__(2)
    except Exception:  # of a lock, of a file, of whatever else is of this process alone
        return ADDRESS.sub("", repr(value))
    if isinstance(reduced, str):
        return reduced
    arguments, state, items, pairs = (*reduced[1:5], *[None] * (5 - len(reduced)))[:4]
    return described([arguments, state, list(items or ()), list(pairs or ())], around)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a function that calls itself and is not yet there
        return None


def _code(code: CodeType) -> list[Any]:
    """What a function does, and not in which line of which file."""
    constants = [described(one) for one in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), list(code.co_freevars), constants]


def _digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    add_tensors(digest, tensors)
    return digest.hexdigest()


def _sorted(values: list[Any]) -> list[Any]:
    return sorted(values, key=lambda value: json.dumps(value, sort_keys=True))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
