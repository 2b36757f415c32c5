"""Whether a forward pass takes derivatives itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

ENGINE = ((torch.autograd, "_engine_run_backward"),)
"""What torch's grad and backward end in, under whatever name a model has imported them; it is private."""
PUBLIC = ((torch.autograd, "grad"), (torch.autograd, "backward"), (Tensor, "backward"))
"""Where torch has no such function: a `grad` that a model imported by name escapes."""
WATCHED = ENGINE if hasattr(torch.autograd, "_engine_run_backward") else PUBLIC


def uses_derivatives(model: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    """True if `model(images)` calls `torch.autograd.grad`, `torch.autograd.backward`, `Tensor.backward`, or one of
    `torch.func` that goes through them.

    They are watched for this one call only; a tracer, which AutoAttack's check installs, would stay behind.
    """
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            return function(*args, **options)

        return call

    with ExitStack() as stack:
        for place, name in WATCHED:
            stack.enter_context(patch.object(place, name, counted(getattr(place, name))))
        stack.enter_context(torch.enable_grad())
        model(images.clone())
    return calls > 0
