"""The training step that the benchmarks time, and the rate at which it takes batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from common.budget import is_installed
from common.harness import synchronize
from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.objectives import Objective
from lightning_sq.types import Batch

Step = Callable[[Tensor, Tensor], None]
"""Trains on images (B, C, H, W) in [0, 1] with labels (B,)."""


def automatic_precision(device: torch.device) -> torch.autocast:
    """bf16 on a GPU, float32 elsewhere: what the command line trains with, where Lightning keeps no cast weights."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)


def training_step(objective: Objective, model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """One step of `model` by `objective`, with channels_last."""

    def step(images: Tensor, labels: Tensor) -> None:
        with automatic_precision(images.device):
            loss, _ = objective(model, images.contiguous(memory_format=torch.channels_last), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def rate(batches: Iterable[Batch], step: Step | None, device: torch.device) -> float:
    """Images/s of reading `batches` and training on them; without a step of reading alone.

    The clock starts behind the first batch: a loader's pipeline is filled by then, which takes as long in an epoch of
    30 batches as in one of 5,000. Where more are on their way with it, it starts behind as many as `batches_held`: they
    may be done by then, and would be counted without their time.

    Raises: InputError where there are not twice as many.
    """
    filling = batches_held(batches)
    began, count, number = 0.0, 0, 0
    for number, batch in enumerate(batches, start=1):
        if step is not None:
            step(batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True))
        if number == filling:
            synchronize()
            began = time.perf_counter()
        elif number > filling:
            count += len(batch.labels)
    if number < 2 * filling:
        least = f"the first {filling} only fill the pipeline. Give {2 * filling} or more"
        raise InputError(f"An epoch of {number} batches has no speed: {least}.")
    synchronize()
    return count / (time.perf_counter() - began)


def batches_held(batches: Iterable[Batch]) -> int:
    """How many are on their way when the first one comes: one of each process, or those in DALI's queues."""
    if is_installed("nvidia.dali"):
        from lightning_sq.data.dali import BATCHES_AHEAD, PREFETCH, DaliLoader

        if isinstance(batches, DaliLoader):
            return BATCHES_AHEAD + PREFETCH
    return max(1, getattr(batches, "num_workers", 1))
