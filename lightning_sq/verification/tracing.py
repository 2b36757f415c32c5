"""What a network is made of: its graph by torch.fx, with the modules that proofs know as its leaves."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from lightning_sq.errors import InputError
from lightning_sq.layers.eval_mode import in_eval_mode
from lightning_sq.layers.normalize import Normalize
from lightning_sq.layers.soft_quantization import SoftQuantization
from lightning_sq.layers.unit_clamp import UnitClamp

LEAVES = (nn.BatchNorm2d, SoftQuantization, Normalize, UnitClamp)
"""Besides those of torch.nn: seen whole, as are the subclasses, such as timm's batch norm with an activation."""
PLAIN = (type(None), bool, int, float, str)
"""Attributes by which a forward method may go."""


def graph_of(network: nn.Module) -> fx.Graph:
    """The graph of nn.Sequential(network), which makes a network of a single operation like any other.

    As it is in eval mode; traced once, and again if the network's modules change, or a flag, a number or a text of one
    that is traced through. Whatever else its forward methods read is as at the first call: see `forget_graph`.

    Raises: InputError if it is no nn.Module, or cannot be traced.
    """
    if not isinstance(network, nn.Module):
        raise InputError(
            f"The model is a {type(network).__name__}, and bounds go by layers. Give the nn.Module itself."
        )
    key = _key(network)
    known_key, graph = _GRAPHS.get(network, (None, None))
    if graph is None or key != known_key:
        try:
            with in_eval_mode(network):
                graph = _Tracer().trace(nn.Sequential(network))
            if any(node.op == "get_attr" and node.target.startswith("_tensor_constant") for node in graph.nodes):
                raise ValueError("it makes tensors itself, perhaps at random")  # and would be bounded with these
        except Exception as error:  # a forward method that is run on symbols can fail in any way
            raise InputError(
                f"{type(network).__name__} has no interval bounds because torch.fx cannot trace it "
                f"({type(error).__name__}). Use a network whose forward method does not branch on its input, such as a "
                "ResNet."
            ) from error
        _GRAPHS[network] = key, graph
    return graph


def forget_graph(network: nn.Module) -> None:
    """It is traced anew when its graph is next asked for: as its forward method is by then."""
    _GRAPHS.pop(network, None)


def _key(network: nn.Module) -> tuple[Any, ...]:
    """What a graph of `network` rests on. A leaf's own numbers are read at each use of the graph."""
    tracer, found = _Tracer(), []
    for name, module in network.named_modules():
        values = {} if tracer.is_leaf_module(module, name) else vars(module)
        plain = [(key, one) for key, one in values.items() if isinstance(one, PLAIN) and key != "training"]
        found.append((name, type(module), has_hooks(module), tuple(plain)))
    return tuple(found)


def chain_of_modules(network: nn.Module) -> list[nn.Module]:
    """The modules that `network` is a chain of, first to last, as it is in eval mode.

    Raises: InputError if it cannot be traced, or is no chain: a sum of two branches, or a function that is no module.
    """
    whole, found, last = nn.Sequential(network), [], None
    for node in graph_of(network).nodes:
        if node.op == "call_module" and node.args == (last,) and not node.kwargs:
            found.append(whole.get_submodule(node.target))
        elif node.op == "output" and node.args == (last,):
            return found
        elif node.op != "placeholder":
            break
        last = node
    raise InputError(f"{type(network).__name__} is no chain of modules, each of which takes what the one before gives.")


def kind_of(module: nn.Module, kinds: Collection[type[nn.Module]]) -> type[nn.Module] | None:
    """Which of `kinds` does what this module does: its class or the next above, if their forward methods are the same.

    None if there is none, or if hooks may change what the module does.
    """
    known = next((base for base in type(module).__mro__ if base in kinds), None)
    if known is None or has_hooks(module):
        return None
    return known if getattr(module.forward, "__func__", None) is known.forward else None


def has_hooks(module: nn.Module) -> bool:
    """On its forward method."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Proxy(fx.Proxy):
    """torch.fx takes `y += z` for `y = y + z`: who holds the old y, a shortcut say, would keep its old value."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self._autocast = _autocast()

    def create_node(self, *arguments: Any, **options: Any) -> fx.Node:
        if _autocast() != self._autocast:
            raise ValueError("it switches autocast")  # which no graph holds: it would be bounded as if it did not
        return super().create_node(*arguments, **options)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


def _autocast() -> list[bool]:
    return [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")]


_GRAPHS: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], fx.Graph]] = WeakKeyDictionary()
