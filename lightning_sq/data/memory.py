"""Small images, all of them decoded once and kept in memory: for sets such as MNIST, where decoding costs the most."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
import torch
from torch import Tensor

from lightning_sq.data.array_cache import kept_at, load_arrays, save_arrays
from lightning_sq.data.crop import RandomShift
from lightning_sq.data.in_parts import map_in_parts
from lightning_sq.data.loader import Dataset, Loader, check_fits_memory
from lightning_sq.data.order import EpochOrder
from lightning_sq.data.torch_loader import decode
from lightning_sq.errors import InputError
from lightning_sq.paths import cache_folder
from lightning_sq.types import Batch, Progress

MAX_KEPT_BYTES = 2**30
"""Decoded images of more than this are not kept for the next run."""


class MemoryLoader(Loader):
    """Batches cut from one tensor of all images, shifted and flipped as a whole.

    Args:
        dataset: Its rule is a `RandomShift`; its images all have its size.
        order: This rank's share.
        images: What `decode_once` gave for the dataset's index.
    """

    def __init__(self, dataset: Dataset, order: EpochOrder, images: Tensor) -> None:
        super().__init__(dataset, order)
        if not isinstance(dataset.crop_rule, RandomShift):
            raise InputError("backend=memory shifts images and does not resize them. Set --data.max_shift 0, or more.")
        self.rule = dataset.crop_rule
        margin = [self.rule.max_shift] * 4
        self.padded = torch.nn.functional.pad(images, margin) if self.rule.max_shift else images

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        draws = self.rule.of_epoch(self.dataset.seed, epoch, len(self.dataset.index))
        for indices in self.order.epoch(epoch)[first:]:
            chosen = np.maximum(indices, 0)  # padding shows the first image, and is masked out of everything
            images = self._cut(chosen, draws.top[chosen], draws.left[chosen], draws.flip[chosen])
            yield self.dataset.batch(images, indices)

    def _cut(self, chosen: np.ndarray, top: np.ndarray, left: np.ndarray, flip: np.ndarray) -> Tensor:
        if self.padded.shape[-1] == self.dataset.image_size and not flip.any():
            return self.padded[torch.from_numpy(chosen)].float().div_(255)
        along = np.arange(self.dataset.image_size)
        rows = top[:, None] + along
        columns = left[:, None] + np.where(flip[:, None], along[::-1], along)
        where = (torch.from_numpy(part) for part in (chosen[:, None, None], rows[:, :, None], columns[:, None, :]))
        number, row, column = where
        return self.padded[number, :, row, column].permute(0, 3, 1, 2).contiguous().float().div_(255)


def decode_once(dataset: Dataset, *, num_threads: int, progress: Progress | None = None) -> Tensor:
    """`decode_all`, from the user's cache if an earlier run decoded the same files there, else kept in it.

    Only the bytes of the files as the index knows them count, not their names; a damaged file is as none.
    """
    index, fingerprint = dataset.index, _fingerprint(dataset)
    path = kept_at(cache_folder() / "decoded", index.folder, dataset.image_size, dataset.channels)
    kept = load_arrays(path)
    if {"fingerprint", "images"} <= kept.keys() and str(kept["fingerprint"]) == fingerprint:
        return torch.from_numpy(kept["images"])
    images = decode_all(dataset, num_threads=num_threads, progress=progress)
    if images.numel() <= MAX_KEPT_BYTES:
        save_arrays(path, lost="so every run decodes the images", fingerprint=fingerprint, images=images.numpy())
    return images


def _fingerprint(dataset: Dataset) -> str:
    """Of the files' bytes in their order, and of what decodes them."""
    return hashlib.sha256(PIL.__version__.encode() + dataset.index.digests.tobytes()).hexdigest()


def decode_all(dataset: Dataset, *, num_threads: int, progress: Progress | None = None) -> Tensor:
    """(N, C, S, S) uint8: the images of the dataset's index as they are stored.

    Raises: InputError if one cannot be decoded, or has another size than the dataset's.
    """
    size, count = dataset.image_size, len(dataset.index)
    check_fits_memory(size)
    odd = np.flatnonzero((dataset.index.sizes != size).any(1))
    if len(odd):
        height, width = dataset.size(int(odd[0]))
        raise InputError(
            f"{dataset.where(int(odd[0]))} is {height} x {width} pixels, and backend=memory takes images of "
            f"image_size={size} alone. Set --data.backend dali, which resizes, or mend --data.image_size."
        )
    images = torch.empty(count, dataset.channels, size, size, dtype=torch.uint8)

    def put(i: int) -> None:
        pixels = np.asarray(decode(dataset, i, dataset.read(i)))
        images[i] = torch.from_numpy(pixels.reshape(size, size, dataset.channels).transpose(2, 0, 1).copy())

    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        for done, _ in enumerate(map_in_parts(pool, put, range(count)), start=1):
            if progress is not None and (done % 1000 == 0 or done == count):
                progress(done, count)
    return images
