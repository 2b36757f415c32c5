"""By which tensors are known again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def add_tensors(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    """Into `digest` of hashlib: each tensor's name, dtype, shape and bytes, in the order of the names."""
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
