"""Whether a forward pass takes derivatives itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor


def uses_derivatives(model: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    """True if `model(images)` calls `torch.autograd.grad`, `torch.autograd.backward` or `Tensor.backward`.

    They are watched for this one call only; a tracer, which AutoAttack's check installs, would stay behind.
    """
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            return function(*args, **options)

        return call

    with (
        patch.object(torch.autograd, "grad", counted(torch.autograd.grad)),
        patch.object(torch.autograd, "backward", counted(torch.autograd.backward)),
        patch.object(Tensor, "backward", counted(Tensor.backward)),
        torch.enable_grad(),
    ):
        model(images.clone())
    return calls > 0
