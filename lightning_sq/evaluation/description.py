"""What tells a thing from others: what it does, and all that it holds and reads.

It is the same in the next process: no address in memory, no order that a hash has made. What is installed is told by
its name and version, what somebody has written himself by its code.
"""

from __future__ import annotations

import dis
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_sq.ops.tensor_digest import add_tensors

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""In the `repr` of an object that has none of its own."""
PLAIN = (type(None), bool, int, float, str)
OWN_PACKAGE = __name__.partition(".")[0]
STANDARD_LIBRARY = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
PACKAGES = {"site-packages", "dist-packages"}
OF_EVERY_MODULE = frozenset(vars(nn.Module()))
OF_EVERY_CLASS = frozenset({*vars(type("", (), {})), "__annotations__", "_abc_impl"})
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TOLD_BY_THEIR_PARTS = (nn.DataParallel, nn.parallel.DistributedDataParallel, fx.GraphModule)
"""What else they hold differs from process to process. A GraphModule's code is among its plain attributes."""


def described(value: Any, *, in_a_set: bool = False) -> str:
    """The digest of `value` and of all that it leads to; of sets inside a set only the names."""
    description = _Description(in_a_set)
    return digest_of([description.of(value), description.of_what_is_left()])


def made_of(model: Any) -> str:
    """The same of a model, but for its weights, its buffers and the plain attributes of its parts."""
    if not isinstance(model, nn.Module):
        return described(model)
    description = _Description()
    return digest_of([description.parts(model), description.of_what_is_left()])


def weights_of(model: Any) -> str:
    """Their digest, if the model has some."""
    return _digest_of_tensors(model.state_dict() if isinstance(model, nn.Module) else {})


def beside_weights(model: Any) -> str | None:
    """The digest of what a state_dict does not tell: buffers that are not kept, and plain attributes of each part."""
    if not isinstance(model, nn.Module):
        return None
    digest, kept = hashlib.sha256(), model.state_dict()
    add_tensors(digest, {name: value for name, value in model.named_buffers() if name not in kept})
    for name, part in model.named_modules():
        plain = {key: one for key, one in vars(part).items() if isinstance(one, PLAIN) and key != "training"}
        digest.update(json.dumps([name, plain], sort_keys=True).encode())
    return digest.hexdigest()


def networks_in(value: Any) -> list[nn.Module]:
    """Every network that `value` is, holds, or reads of the module around it."""
    description = _Description()
    if isinstance(value, nn.Module):
        description.parts(value)  # its weights need not be read
        itself = [value]
    else:
        description.of(value)
        itself = []
    description.of_what_is_left()
    return itself + description.networks


def code_of(code: CodeType) -> list[Any]:
    """What a function does, and not in which line of which file."""
    constants = [code_of(one) if isinstance(one, CodeType) else described(one) for one in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), list(code.co_freevars), constants]


def digest_of(value: Any) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def is_installed(name: str | None) -> bool:
    """Whether a module of this name is of this package, or lies where Python's own and others' packages are."""
    if not name or name == "__main__":
        return False
    if name.partition(".")[0] in (OWN_PACKAGE, *sys.builtin_module_names):
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and (
        not PACKAGES.isdisjoint(Path(file).parts) or any(folder in Path(file).parents for folder in STANDARD_LIBRARY)
    )


class _Description:
    """Of one value. What it leads to is numbered as it is come upon, and looked at in this order: it may be deep, and
    lead back to where it began.
    """

    def __init__(self, in_a_set: bool = False) -> None:
        self._in_a_set = in_a_set
        self._numbers: dict[int, int] = {}
        self._found: list[Any] = []  # kept, so that no other object can have an address that is known

    @property
    def networks(self) -> list[nn.Module]:
        """Those among what has a number."""
        return [one for one in self._found if isinstance(one, nn.Module)]

    def of(self, value: Any) -> Any:
        """Itself if that says all; else its number."""
        match value:
            case None | bool() | int() | float() | str():
                return value
            case bytes():
                return ["bytes", hashlib.sha256(value).hexdigest()]
            case Tensor():
                return ["a tensor", _digest_of_tensors({"": value})]
            case torch.device():
                return ["a device"]  # another one in each process, perhaps
            case torch.Generator():
                return ["a generator", value.initial_seed()]
            case CodeType():
                return ["code", code_of(value)]
            case ModuleType():
                return ["module", _name(value.__name__, "")]
            case list() | tuple() | set() | frozenset() if all(isinstance(one, PLAIN) for one in value):
                ordered = value if isinstance(value, (list, tuple)) else sorted(value, key=repr)
                return [type(value).__name__, list(ordered)]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._found)
            self._found.append(value)
        return ["number", self._numbers[id(value)]]

    def of_what_is_left(self) -> list[Any]:
        """Of all that has a number, also of what gets one on the way."""
        said: list[Any] = []
        while len(said) < len(self._found):
            said.append(self._looked_at(self._found[len(said)]))
        return said

    def _looked_at(self, value: Any) -> Any:
        match value:
            case Mapping():
                return ["mapping", [[self.of(key), self.of(one)] for key, one in _in_order(value)]]
            case list() | tuple():
                return ["sequence", [self.of(one) for one in value]]
            case set() | frozenset():  # whose order is another one in each process, so that nothing in it has a number
                says = _name_of if self._in_a_set else partial(described, in_a_set=True)
                return ["set", sorted(says(one) for one in value)]
            case staticmethod() | classmethod() | MethodType():
                return ["method", self.of(value.__func__), self.of(getattr(value, "__self__", None))]
            case property():
                return ["property", self.of(value.fget)]
            case type():
                return ["class", _name(value.__module__, value.__qualname__), self._class(value)]
            case nn.Module():
                return ["network", weights_of(value), beside_weights(value), self.parts(value)]
            case FunctionType():
                return ["function", value.__qualname__, self._function(value)]
        return ["object", self._object(value)]

    def parts(self, model: nn.Module) -> list[Any]:
        """Of each its class, what it holds beside plain values, and its hooks."""
        found = []
        for name, part in model.named_modules():
            values = vars(part)
            own = values.keys() - OF_EVERY_MODULE
            if isinstance(part, TOLD_BY_THEIR_PARTS) or "_orig_mod" in part._modules:  # the last is torch.compile's
                own = set()
            held = [[key, self.of(values[key])] for key in sorted(own) if not isinstance(values[key], PLAIN)]
            hooks = [[self.of(hook) for hook in values.get(kind, {}).values()] for kind in HOOKS]
            found.append([name, self.of(type(part)), held, hooks, self.of(_script_of(part))])
        return found

    def _class(self, value: type) -> list[Any]:
        """What it and the classes above it define, up to those that are installed."""
        found: list[Any] = []
        for base in value.__mro__:
            members = {} if is_installed(base.__module__) else dict(vars(base))
            own = [[key, self.of(one)] for key, one in sorted(members.items()) if key not in OF_EVERY_CLASS]
            found.append([_name(base.__module__, base.__qualname__), own])
        return found

    def _function(self, value: FunctionType) -> list[Any]:
        """Its code, what it has closed over, what it takes unasked, and what it reads of the module around it."""
        closed_over = [self.of(_content(cell)) for cell in value.__closure__ or ()]
        taken = [self.of(value.__defaults__), self.of(value.__kwdefaults__), self.of(value.__dict__)]
        read = {} if is_installed(value.__module__) else _read_by(value.__code__, value.__globals__)
        return [code_of(value.__code__), closed_over, taken, [[name, self.of(one)] for name, one in read.items()]]

    def _object(self, value: Any) -> list[Any]:
        """Its class, a function that it is around, and what makes it again in another process, as pickle has it."""
        own = [self.of(type(value)), self.of(getattr(value, "__wrapped__", None)), self.of(_script_of(value))]
        try:
            reduced = value.__reduce_ex__(2)
        except Exception:  # of a lock, of a file, of whatever else is of this process alone
            return [*own, ADDRESS.sub("", repr(value))]
        if isinstance(reduced, str):
            return [*own, reduced]
        arguments, state, items, pairs = (*reduced[1:5], *[None] * (5 - len(reduced)))[:4]
        return [*own, *(self.of(one) for one in (arguments, state, list(items or ()), list(pairs or ())))]


def _in_order(values: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    """By the keys, if these are names."""
    return sorted(values.items()) if all(isinstance(key, str) for key in values) else values.items()


def _read_by(code: CodeType, around: Mapping[str, Any]) -> dict[str, Any]:
    """What a function reads of its module, and of modules that are not installed, by name."""
    found: dict[str, Any] = {}
    for one in (code, *_inside(code)):
        loaded = {step.argval for step in dis.get_instructions(one) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        for name in sorted(loaded & around.keys()):
            found[name] = value = around[name]
            if isinstance(value, ModuleType) and not is_installed(value.__name__):
                attributes = vars(value)
                found |= {f"{name}.{key}": attributes[key] for key in one.co_names if key in attributes}
    return found


def _inside(code: CodeType) -> Iterable[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from _inside(one)


def _script_of(value: Any) -> Any:
    """What TorchScript runs, where it is that."""
    if isinstance(value, torch.jit.ScriptFunction):
        return value.code
    try:
        text, constants = value.code_with_constants if isinstance(value, torch.jit.ScriptModule) else (None, None)
    except RuntimeError:  # a part without a forward method
        return None
    return None if text is None else [text, constants.const_mapping]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a function that calls itself and is not yet there
        return None


def _name_of(value: Any) -> str:
    """Its own, or that of its class."""
    return repr(value) if isinstance(value, PLAIN) else getattr(value, "__qualname__", type(value).__qualname__)


def _name(module: str | None, name: str) -> str:
    """With the version, if it is installed and has one."""
    package = sys.modules.get((module or "").partition(".")[0])
    version = getattr(package, "__version__", "") if is_installed(module) else ""
    return f"{module}.{name} {version}"


def _digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    add_tensors(digest, tensors)
    return digest.hexdigest()
