"""torch's own random numbers, lent and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SEED_STRIDE = 1_000_003
"""Between what two seeds of a person give: ranks and images are numbered in between."""


@contextmanager
def random_numbers_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Inside, whatever is drawn on the CPU or on `device` changes nobody else's random numbers.

    Args:
        device: Of the model that may draw.
        seed: Where they start, so that what is drawn is a function of it; None goes on where they are.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
        yield
