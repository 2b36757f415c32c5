"""The loaders that benchmarks/data.py times: ours, what a user of torchvision would write, and bare decoding."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from common.budget import is_installed
from data_parts.cuts import RESIZE, SIZE, SMALLEST_AREA, dataset_of, order_of
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from lightning_sq.data.backends import Backend, make_loader
from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.loader import Loader

Epoch = Callable[[], int]
"""Reads a whole epoch and gives the number of its images."""
PIL = "torchvision DataLoader (PIL)"
BY_DALI = DALI, SHARDS, ALONE = "DALI CPU", "DALI CPU, shards", "DALI CPU, decoding alone"


def ours(loader: Loader) -> Epoch:
    """One of the project's loaders, a new epoch each time."""
    epochs = iter(range(10**6))

    def run() -> int:
        loader.set_epoch(next(epochs))
        return sum(len(batch.labels) for batch in loader)

    return run


def decoding_alone(loader: Loader) -> Loader:
    """DALI's part on the CPU: files are read and their windows decoded, and nothing is resized."""
    loader._cut = lambda windows, samples: torch.empty(len(samples), 0)
    return loader


class Files(Dataset):
    """Files with a transform, read by PIL or by torchvision's own decoder."""

    def __init__(self, index: ImageIndex, transform: v2.Transform, *, pil: bool) -> None:
        self.index, self.transform, self.pil = index, transform, pil

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        path = str(self.index.folder / self.index.paths[i])
        if not self.pil:
            return self.transform(decode_jpeg(read_file(path), ImageReadMode.RGB)), int(self.index.labels[i])
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), int(self.index.labels[i])


def theirs(index: ImageIndex, *, train: bool, pil: bool, batch_size: int, num_workers: int) -> Epoch:
    """torchvision's transforms in a DataLoader whose workers stay from epoch to epoch."""
    cut = [v2.Resize(RESIZE), v2.CenterCrop(SIZE)]
    if train:
        cut = [v2.RandomResizedCrop(SIZE, scale=(SMALLEST_AREA, 1.0)), v2.RandomHorizontalFlip()]
    transform = v2.Compose([*cut, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    images = Files(index, transform, pil=pil)
    loader = DataLoader(
        images, batch_size, shuffle=train, num_workers=num_workers, persistent_workers=True, prefetch_factor=4
    )
    return lambda: sum(len(labels) for _, labels in loader)


def bare_decode(index: ImageIndex, num_threads: int) -> Epoch:
    """libjpeg-turbo on all cores: whole images from memory, no crop, no resize, nothing kept."""
    encoded = [torch.tensor(index.read(i)) for i in np.unique(index.paths, return_index=True)[1].tolist()]
    pool = ThreadPoolExecutor(num_threads)

    def decode(first: int) -> int:
        mine = range(first, len(index), num_threads)
        for i in mine:
            decode_jpeg(encoded[i % len(encoded)], ImageReadMode.RGB)
        return len(mine)

    return lambda: sum(pool.map(decode, range(num_threads)))


def loaders(index: ImageIndex, shards: ImageIndex, *, train: bool, batch_size: int, threads: int) -> dict[str, Epoch]:
    """Name -> epoch of each loader that runs on the CPU; those of `BY_DALI` where it is installed."""
    order = order_of(len(index), batch_size, train=train)
    common = {"train": train, "batch_size": batch_size, "num_workers": threads}

    def loader(images: ImageIndex, backend: Backend) -> Loader:
        return make_loader(dataset_of(images, train=train), order, backend=backend, num_threads=threads)

    ways = {
        PIL: theirs(index, pil=True, **common),
        "torchvision v2 (decode_jpeg)": theirs(index, pil=False, **common),
        "ours, backend torchvision": ours(loader(index, "torchvision")),
    }
    if is_installed("nvidia.dali"):
        made = loader(index, "dali"), loader(shards, "dali"), decoding_alone(loader(index, "dali"))
        ways |= {name: ours(one) for name, one in zip(BY_DALI, made, strict=True)}
    return ways
