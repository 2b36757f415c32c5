"""Full float32, whatever the caller or the hardware would rather do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

backends = torch.backends


@contextmanager
def full_precision() -> Iterator[None]:
    """Autocast off, and IEEE float32 in matrix products and convolutions: rounding hides small gradients.

    torch has an older and a newer name for each setting, and refuses to read an older one that a newer one contradicts.
    So both are set, the older where they can be read, and all come back as the caller had them.
    """
    operations = _operations()
    before = [operation.fp32_precision for operation in operations]
    older = _if_legible(torch.get_float32_matmul_precision), _if_legible(lambda: backends.cudnn.allow_tf32)
    _set_older(older, "highest", False)
    for operation in operations:
        operation.fp32_precision = "ieee"
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for operation in operations:
            operation.fp32_precision = "none"  # as the backend has it, or torch as a whole
        _set_older(older, *older)
        for operation, value in zip(operations, before, strict=True):
            if operation.fp32_precision != value:
                operation.fp32_precision = value


def _operations() -> list[Any]:
    gpu, cpu = backends.cudnn, backends.mkldnn
    return [backends.cuda.matmul, gpu.conv, gpu.rnn, cpu.matmul, cpu.conv, cpu.rnn]


def _if_legible(setting: Callable[[], Any]) -> Any:
    try:
        return setting()
    except RuntimeError:
        return None


def _set_older(before: tuple[str | None, bool | None], matmul: str, conv: bool) -> None:
    """Set those that were legible, and not at full precision, before."""
    if before[0] not in (None, "highest"):
        torch.set_float32_matmul_precision(matmul)
    if before[1]:
        backends.cudnn.allow_tf32 = conv
