"""The images of an evaluation: drawn from a folder, cut as a model wants them, labelled as its logits are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_sq.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lightning_sq.data.backends import Backend
    from lightning_sq.data.image_index import ImageIndex
    from lightning_sq.models import ModelConfig


def choose_images(data: Path, num_images: int, seed: int, *, allow_unreadable: bool) -> ImageIndex:
    """`num_images` of the validation folder drawn at random, in the index's order.

    Raises: InputError if files cannot be read and that is not allowed: an accuracy over the rest would be another one.
    """
    from lightning_sq.data.index import look_through_readable
    from lightning_sq.evaluation.inputs import drawn

    folder = data / "val" if (data / "val").is_dir() else data
    index = look_through_readable(folder, allow_unreadable=allow_unreadable)
    return index.take(drawn(len(index), num_images, seed))


def read_images(
    config: ModelConfig,
    files: ImageIndex,
    *,
    batch_size: int,
    backend: Backend,
    num_threads: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) and labels (N,), on the CPU.

    Raises: InputError if the folder has a class that the model does not know.
    """
    import torch

    from lightning_sq.data.backends import make_loader, read_all
    from lightning_sq.data.crop import resize_and_center_crop
    from lightning_sq.data.loader import Dataset
    from lightning_sq.data.order import EpochOrder
    from lightning_sq.process_group import rank
    from lightning_sq.progress import progress_bar

    unknown = sorted(set(files.class_names) - set(config.class_names))
    if unknown:
        raise InputError(
            f"The model knows no class {unknown[0]!r} of {files.folder}. Give data with the classes it was trained on."
        )
    rule = resize_and_center_crop(config.image_size, resize_size=config.resize_size)
    loader = make_loader(
        Dataset(files, rule, config.image_size, channels=config.num_channels),
        EpochOrder(len(files), batch_size),
        backend=backend,
        num_threads=num_threads,
        device_id=(device.index or 0) if device.type == "cuda" else None,
    )
    with progress_bar("reading images", "batches") as advance:
        images, labels = read_all(loader, progress=advance if rank() == 0 else None)
    logit_numbers = torch.tensor([config.class_names.index(name) for name in files.class_names])
    return images, logit_numbers[labels]
