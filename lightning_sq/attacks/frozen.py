"""Models held still while they are attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lightning_sq.layers.eval_mode import in_eval_mode


@contextmanager
def frozen(*models: Any) -> Iterator[None]:
    """Eval mode, and no gradient for the weights: an attack wants only that of the pixels.

    Afterwards modes, weights' flags and buffers are as they were, whatever an attack did to them: one that puts a model
    into training mode lets its batch norm move the running statistics.

    Args:
        models: nn.Modules; any other function from pixels to logits is left alone.
    """
    modules = [model for model in models if isinstance(model, nn.Module)]
    learns = {weight: weight.requires_grad for module in modules for weight in module.parameters()}
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(in_eval_mode(module))
            stack.enter_context(_buffers_kept(module))
        try:
            for weight in learns:
                weight.requires_grad_(False)
            yield
        finally:
            for weight, learnt in learns.items():
                weight.requires_grad_(learnt)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Their values, in the tensors that they are in: others may share these."""
    slots = [(part, name, value) for part in module.modules() for name, value in part.named_buffers(recurse=False)]
    copies = [value.clone() for _, _, value in slots]
    try:
        yield
    finally:
        with torch.no_grad():
            for (part, name, value), copy in zip(slots, copies, strict=True):
                if getattr(part, name) is not value:
                    setattr(part, name, value)
                if not torch.equal(value, copy):  # a tensor that nobody may write into has not changed
                    value.copy_(copy)
