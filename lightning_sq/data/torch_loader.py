"""The same batches through PIL and torchvision: for machines without DALI, and to hold DALI against."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as transforms

from lightning_sq.data.loader import Dataset, Loader
from lightning_sq.data.order import EpochOrder
from lightning_sq.errors import InputError
from lightning_sq.types import Batch


class TorchvisionLoader(Loader):
    """Decodes with PIL in worker processes.

    Args:
        dataset: What to read and how to cut it.
        order: This rank's share.
        num_workers: Processes; 0 decodes in this one.
    """

    def __init__(self, dataset: Dataset, order: EpochOrder, *, num_workers: int) -> None:
        super().__init__(dataset, order)
        self.num_workers = num_workers

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        yield from DataLoader(
            _Images(self.dataset, epoch),
            batch_sampler=self.order.epoch(epoch)[first:].tolist(),
            collate_fn=self._collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _collate(self, samples: list[tuple[int, Tensor]]) -> Batch:
        indices = np.array([index for index, _ in samples], np.int64)
        images = torch.stack([image for _, image in samples])
        return Batch(images, torch.from_numpy(self.dataset.labels(indices)), torch.from_numpy(indices))


class _Images(torch.utils.data.Dataset):
    def __init__(self, dataset: Dataset, epoch: int) -> None:
        self.dataset, self.epoch = dataset, epoch

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        path, crop = self.dataset.path(index), self.dataset.crop(self.epoch, index)
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except OSError as error:
            raise InputError(f"{path} has gone bad since it was indexed ({error}). Mend it, and resume.") from error
        image = transforms.resized_crop(
            image, crop.top, crop.left, crop.height, crop.width, [crop.resized_height, crop.resized_width]
        )
        image = transforms.crop(image, crop.offset_top, crop.offset_left, *[self.dataset.image_size] * 2)
        if crop.flip:
            image = transforms.horizontal_flip(image)
        return index, transforms.pil_to_tensor(image).float() / 255
