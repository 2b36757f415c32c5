"""Which images the benchmarks read, how they are cut and in which order; needs no decoder."""

from __future__ import annotations

from lightning_sq.data.crop import random_resized_crop, resize_and_center_crop
from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.loader import Dataset
from lightning_sq.data.order import EpochOrder

SIZE, RESIZE, SMALLEST_AREA = 224, 256, 0.25


def dataset_of(index: ImageIndex, *, train: bool, size: int = SIZE) -> Dataset:
    """The images with the transform at `size` px."""
    rule = random_resized_crop(size, min_crop_area=SMALLEST_AREA)
    return Dataset(index, rule if train else resize_and_center_crop(size, resize_size=size * RESIZE // SIZE), size)


def order_of(count: int, batch_size: int, *, train: bool) -> EpochOrder:
    return EpochOrder(count, batch_size, shuffle=train, pad_by_repeating=train)
