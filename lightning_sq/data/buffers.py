"""Memory for batches that is used again: fresh pages for each batch cost as much time as half of the resizing."""

from __future__ import annotations

from collections import deque
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

KEPT = 4
"""Buffers that wait for their next use: one is trained on, one fetched ahead, and the others are on their way."""


class Buffers:
    """Gives out float32 tensors whose memory comes back when nobody holds them, or any view of them, any more."""

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=KEPT)

    def take(self, *shape: int) -> Tensor:
        """An uninitialised tensor."""
        try:
            buffer = self._free.popleft()
        except IndexError:
            buffer = None
        if buffer is None or buffer.shape != shape:  # of another size, as in progressive resizing: let it go
            buffer = np.empty(shape, np.float32)
        lent = buffer[...]  # torch holds this view as long as any tensor shares its memory
        finalize(lent, self._free.append, buffer).atexit = False
        return torch.from_numpy(lent)
