"""Interval bounds of a whole network: torch.fx says which operations it is made of, `ops/interval` bounds each.

Bounds are those of the network in eval mode, whatever mode it is in: dropout does nothing, and batch norm uses its
running statistics, because statistics of a batch are not a function of one image. What a forward method goes by besides
its input is as when the network was traced: see `tracing.graph_of`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_sq.errors import InputError
from lightning_sq.layers.normalize import Normalize
from lightning_sq.layers.soft_quantization import SoftQuantization
from lightning_sq.layers.unit_clamp import UnitClamp
from lightning_sq.ops.interval import (
    Interval,
    affine,
    batch_norm,
    conv2d,
    linear,
    margin_upper_bounds,
    non_decreasing,
    quantized_box,
    worst_case_logits,
)
from lightning_sq.ops.precision import full_precision
from lightning_sq.verification.tracing import graph_of, has_hooks, kind_of

ROUNDING = 1e-5
"""Of a margin's bound: ten times as much as float32 and float64 were seen to differ by, see `ops/interval`."""


def interval_forward(network: nn.Module, box: Interval) -> Interval:
    """Bounds of `network` over `box`: no x in the box has network(x) outside them.

    Costs about two forward passes and is differentiable in the weights. Autocast is off: in bfloat16 a ball of 8/255
    would drown in rounding.

    Args:
        network: Made of the operations below; weights are shared with it, not copied.
        box: Of inputs, (B, ...).
    Raises: InputError for a network that cannot be traced, or that uses an operation without a rule.
    """
    return _interpret(network, box)


def interval_margins(network: nn.Module, box: Interval, labels: Tensor, *, by_batch_statistics: bool = False) -> Tensor:
    """Upper bounds of z_j - z_y over `box`, 0 at j = y: (B, classes). All others below 0 prove the label.

    Cross-entropy is the same for logits and for margins, so CE(margins, y) bounds the loss. A last layer that is an
    nn.Linear is folded into the margins (`margin_upper_bounds`).

    Args:
        network: As in `interval_forward`, with logits (B, classes).
        box: Of inputs, (B, ...).
        labels: (B,) int64.
        by_batch_statistics: For training alone: batch norm goes by the mean and variance of the boxes' centres over the
            batch, and its running statistics follow them.
    """
    result = _interpret(network, box, labels, by_batch_statistics)
    if isinstance(result, Tensor):
        return result
    worst = worst_case_logits(result, labels)
    return worst - worst.gather(1, labels[:, None])


def margin_bound(network: nn.Module, box: Interval, labels: Tensor) -> Tensor:
    """(B,): the largest over j != y of the upper bounds of z_j - z_y; below 0 it proves the label of the whole box.

    `ROUNDING` times the largest of them is added to it, so that what rounding alone may have brought below 0 is not.
    """
    margins = interval_margins(network, box, labels)
    largest = margins.scatter(1, labels[:, None], float("-inf")).amax(1)
    return largest + ROUNDING * margins.detach().abs().amax(1)


@torch.no_grad()
def certified(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    quantizer: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """(B,) bool: interval bounds prove that every image within `epsilon` is given its label; see `margin_bound`.

    False proves nothing. The network is the one in eval mode.

    Args:
        model: Pixels to logits, with its quantizer, such as a `PixelClassifier`; or what is behind `quantizer`.
        images: (B, C, H, W) in [0, 1].
        labels: (B,) int64.
        epsilon: Radius in units of the full pixel range.
        quantizer: Elementwise, non-decreasing; any function of which that is so.
    """
    with full_precision():
        return margin_bound(model, quantized_box(images, epsilon, quantizer), labels) < 0


def _interpret(
    network: nn.Module, box: Interval, labels: Tensor | None = None, by_batch_statistics: bool = False
) -> Any:
    fresh = Interval(box.lower.clone(), box.upper.clone())  # an in-place ReLU may come first
    with torch.autocast(box.lower.device.type, enabled=False):
        return _Interpreter(network, labels, by_batch_statistics).run(fresh)


def _same(module: nn.Module, box: Interval) -> Interval:
    return box


def _linear(module: nn.Linear, box: Interval) -> Interval:
    return linear(box, module.weight, module.bias)


def _conv2d(module: nn.Conv2d, box: Interval) -> Interval:
    return affine(module._conv_forward, box, module.weight, module.bias)  # pads as the module does


def _batch_norm(module: _BatchNorm, box: Interval) -> Interval:
    if module.running_mean is None or module.running_var is None:
        raise _unsupported(f"{type(module).__name__} without running statistics")
    statistics = module.running_mean, module.running_var
    return batch_norm(box, *statistics, module.weight, module.bias, eps=module.eps)


def _batch_norm_by_centres(module: _BatchNorm, box: Interval) -> Interval:
    centre = box.centre
    variance, mean = torch.var_mean(centre, [0, *range(2, centre.dim())], correction=0)
    if module.running_mean is not None:
        count = centre.numel() // len(mean)
        with torch.no_grad():
            module.num_batches_tracked += 1
            momentum = 1 / module.num_batches_tracked if module.momentum is None else module.momentum
            module.running_mean.lerp_(mean, momentum)
            module.running_var.lerp_(variance * count / max(1, count - 1), momentum)
    return batch_norm(box, mean, variance, module.weight, module.bias, eps=module.eps)


def _batch_norm_act(module: nn.BatchNorm2d, box: Interval) -> Interval:
    return _activation(module, _batch_norm(module, box))


def _activation(module: nn.BatchNorm2d, box: Interval) -> Interval:
    return _bound(module.act, _bound(module.drop, box))


def _dropout(box: Interval, p: float = 0.5, training: bool = True, inplace: bool = False) -> Interval:
    if training and p > 0:
        raise _unsupported("dropout in eval mode")
    return box


Rule = Callable[..., Interval]

MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm), _batch_norm),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Flatten), non_decreasing),
    **dict.fromkeys((SoftQuantization, Normalize, UnitClamp), non_decreasing),
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), non_decreasing),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout2d), _same),
}
"""What is known of each module; subclasses count where they inherit the forward method."""

NON_DECREASING = (
    *(operator.add, operator.iadd, operator.getitem, torch.cat, torch.flatten, torch.mean, torch.clamp),
    *(torch.relu, torch.tanh, torch.sigmoid, functional.relu, functional.relu6, functional.hardtanh),
    *(functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d),
)

FUNCTIONS: dict[Callable[..., Any], Rule] = {
    functional.linear: linear,
    functional.conv2d: conv2d,
    functional.dropout: _dropout,
}

TIMM_BATCH_NORM = "timm.layers.norm_act.BatchNormAct2d"
"""Batch norm, dropout and activation in one module; by name, because `models/backbone` alone imports timm."""

METHODS = ("flatten", "view", "reshape", "permute", "contiguous", "mean", "clamp", "relu", "tanh", "sigmoid")
SHAPE_METHODS, SHAPE_ATTRIBUTES = ("size", "dim"), ("shape", "ndim", "dtype", "device")


def _unsupported(what: str) -> InputError:
    modules = ", ".join(module.__name__ for module in MODULES)
    return InputError(
        f"Interval bounds have no rule for {what}. Use a network of {modules}, + and their functional forms."
    )


def _rule(module: nn.Module) -> Rule | None:
    if f"{type(module).__module__}.{type(module).__name__}" == TIMM_BATCH_NORM and not has_hooks(module):
        return _batch_norm_act
    kind = kind_of(module, MODULES)
    return None if kind is None else MODULES[kind]


def _bound(module: nn.Module, box: Interval) -> Interval:
    rule = _rule(module)
    if rule is None:
        raise _unsupported(type(module).__name__ + " with forward hooks" * has_hooks(module))
    return rule(module, box)


class _Interpreter(fx.Interpreter):
    """Runs a graph with Intervals in the place of tensors; with `labels`, a last nn.Linear gives margins instead."""

    def __init__(self, network: nn.Module, labels: Tensor | None, by_batch_statistics: bool) -> None:
        graph = graph_of(network)
        super().__init__(nn.Sequential(network), graph=graph)
        self.extra_traceback = False  # it would be appended to the InputError's sentence
        self.labels = labels
        self.by_batch_statistics = by_batch_statistics
        self.last = next(iter(reversed(graph.nodes))).args[0]

    def run_node(self, n: fx.Node) -> Any:
        is_last = n is self.last and len(n.users) == 1  # what else has it may write into it
        if is_last and self.labels is not None and n.op == "call_module":
            module, args = self.fetch_attr(n.target), self.fetch_args_kwargs_from_env(n)[0]
            if _rule(module) is _linear and _has_interval(args) and args[0].lower.dim() == 2:
                return margin_upper_bounds(args[0], module.weight, module.bias, self.labels)
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _has_interval((args, kwargs)):
            return super().call_module(target, args, kwargs)
        module = self.fetch_attr(target)
        if self.by_batch_statistics and isinstance(module, _BatchNorm):
            box = _batch_norm_by_centres(module, *args, *kwargs.values())
            return _activation(module, box) if _rule(module) is _batch_norm_act else box
        return _bound(module, *args, *kwargs.values())

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _has_interval((args, kwargs)):
            return super().call_function(target, args, kwargs)
        if target is getattr and args[1] in SHAPE_ATTRIBUTES:
            return getattr(args[0].lower, args[1])
        if target in NON_DECREASING:
            return non_decreasing(target, *args, **kwargs)
        if target in FUNCTIONS and _has_interval(args[:1]) and not _has_interval((args[1:], kwargs)):
            return FUNCTIONS[target](*args, **kwargs)
        raise _unsupported(getattr(target, "__name__", str(target)))

    def call_method(self, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _has_interval((args, kwargs)):
            return super().call_method(target, args, kwargs)
        if target in SHAPE_METHODS:
            return getattr(args[0].lower, target)(*args[1:], **kwargs)
        if target in METHODS:
            return non_decreasing(getattr(torch.Tensor, target), *args, **kwargs)
        raise _unsupported(f"Tensor.{target}")


def _has_interval(value: Any) -> bool:
    if isinstance(value, dict):
        value = tuple(value.values())
    return isinstance(value, Interval) or (isinstance(value, (list, tuple)) and any(map(_has_interval, value)))
