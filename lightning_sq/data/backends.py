"""The three ways to read the same batches, by name; the library of each is imported only when it is asked for."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_sq.data.loader import Dataset, Loader
from lightning_sq.data.order import EpochOrder
from lightning_sq.errors import InputError
from lightning_sq.progress import progress_bar
from lightning_sq.types import Progress

Backend = Literal["dali", "torchvision", "memory"]


def check_backend(backend: Backend) -> None:
    """Raises: InputError if it is none of the three."""
    if backend not in get_args(Backend):
        raise InputError(f"backend={backend!r} is not one of {', '.join(get_args(Backend))}.")


def check_num_threads(num_threads: int, backend: Backend) -> None:
    """Raises: InputError if the backend cannot work with so few."""
    least = 0 if backend == "torchvision" else 1  # torchvision decodes in the main process if it has no others
    if num_threads < least:
        raise InputError(f"num_threads={num_threads} is not at least {least}, what backend={backend} needs. Write 2.")


def make_loader(
    dataset: Dataset,
    order: EpochOrder,
    *,
    backend: Backend,
    num_threads: int,
    device_id: int | None = None,
    **dali: Any,
) -> Loader:
    """A loader of the named backend.

    Args:
        dataset: What to read and how to cut it.
        order: This rank's share.
        backend: "dali", "torchvision" or "memory", which decodes everything now.
        num_threads: DALI's or memory's CPU threads, or torchvision's worker processes.
        device_id: The local GPU for DALI; None decodes on the CPU.
        dali: More arguments of `DaliLoader`.
    Raises: InputError if there is no such backend, or if there are too few threads.
    """
    check_backend(backend)
    check_num_threads(num_threads, backend)
    if backend == "torchvision":
        from lightning_sq.data.torch_loader import TorchvisionLoader

        return TorchvisionLoader(dataset, order, num_workers=num_threads)
    if backend == "memory":
        from lightning_sq.data.memory import MemoryLoader, decode_once

        with progress_bar(f"decoding {dataset.index.folder}", "images") as advance:
            images = decode_once(dataset, num_threads=num_threads, progress=advance)
        return MemoryLoader(dataset, order, images)
    from lightning_sq.data.dali import DaliLoader

    return DaliLoader(dataset, order, num_threads=num_threads, device_id=device_id, **dali)


def read_all(loader: Loader, progress: Progress | None = None) -> tuple[Tensor, Tensor]:
    """(images, labels) of one epoch in one piece on the CPU, without padding; for sets that fit into its memory."""
    images, labels = [], []
    for done, batch in enumerate(loader, start=1):
        images.append(batch.images[batch.valid].cpu())
        labels.append(batch.labels[batch.valid].cpu())
        if progress is not None:
            progress(done, len(loader))
    return torch.cat(images), torch.cat(labels)
