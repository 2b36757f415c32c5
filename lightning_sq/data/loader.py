"""What all backends share: the order, the crops, and a position that can be saved and put back."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_sq.data.crop import Crop, CropRule, RandomShift, generator_for
from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.order import EpochOrder, check_64_bit_seed
from lightning_sq.errors import MENDABLE, InputError
from lightning_sq.types import PADDING_INDEX, Batch

LARGEST_IN_MEMORY = 64
"""Pixels along a side: a million images of 64 x 64 are 12 GB."""


@dataclass(frozen=True)
class Dataset:
    """An index with a rule that says how to cut each image. Image `i` of an epoch is the same wherever it is read.

    `channels` is 3 for RGB, or 1 for grey; stored images of the other kind are converted. `resizing` holds pairs of
    (first epoch, image size) in ascending order, for sizes that are not `image_size` in every epoch.
    """

    index: ImageIndex
    crop_rule: CropRule | RandomShift
    image_size: int
    seed: int = 0
    channels: int = 3
    resizing: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check_64_bit_seed(self.seed)
        if self.channels not in (1, 3):
            raise InputError(f"channels={self.channels} is neither 3, for RGB, nor 1, for grey.")

    def square(self, epoch: int) -> int:
        """Height and width of the images of `epoch`, in pixels."""
        return next((size for first, size in reversed(self.resizing) if first <= epoch), self.image_size)

    def read(self, index: int) -> np.ndarray:
        """An encoded image, (bytes,) uint8; padding reads the first one, and is masked out of everything that counts.

        Raises: InputError if it is not there any more, or not for this user; OSError, with the file's name, if the disk
            or the network failed: that passes, and a cluster's script starts such a run again.
        """
        try:
            return self.index.read(max(index, 0))
        except OSError as error:
            where, reason = self.where(index), error.strerror or str(error)
            if error.errno not in MENDABLE:
                raise OSError(error.errno, reason, where) from error
            raise InputError(f"{where} cannot be read any more ({reason}). Put it back, and resume.") from error

    def batch(self, images: Tensor, indices: np.ndarray) -> Batch:
        """The `images` of these positions, with their labels."""
        return Batch(images, torch.from_numpy(self.labels(indices)), torch.from_numpy(indices.copy()))

    def where(self, index: int) -> str:
        """The file of an image, for people."""
        return self.index.where(max(index, 0))

    def spoilt(self, index: int, reason: str) -> InputError:
        """What is said of an image that could be decoded once and cannot be now."""
        return InputError(f"{self.where(index)} cannot be decoded ({reason}). {self.index.remedy}")

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image as stored."""
        height, width = self.index.sizes[max(index, 0)].tolist()
        return height, width

    def crop(self, epoch: int, index: int) -> Crop:
        """How image `index` is cut in `epoch`."""
        if isinstance(self.crop_rule, RandomShift):
            raise InputError("Shifted images are cut in memory. Set --data.backend memory, or leave max_shift out.")
        return self.crop_rule(generator_for(self.seed, epoch, max(index, 0)), *self.size(index))

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Class indices (B,) int64; 0 for padding."""
        return np.where(indices == PADDING_INDEX, 0, self.index.labels[indices])


class Loader(ABC):
    """Batches of one split for one rank, epoch by epoch.

    Lightning calls `sampler.set_epoch` before each epoch and saves `state_dict()`. Because the order is a
    function of the seed, that state is two numbers, the same on every rank whichever writes it.
    """

    batch_sampler = None  # Lightning asks for it beside `sampler`

    def __init__(self, dataset: Dataset, order: EpochOrder) -> None:
        self.dataset = dataset
        self.order = order
        self.epoch = 0
        self.waited = 0.0
        """Seconds that whoever takes the batches has waited for them, since this loader was made."""
        self.waited_for_reader = 0.0
        """The part of them in which files were not read yet; the rest is the decoder's."""
        self.reading_share = 0.0
        """Of the time that was waited for the batch that `batches` gave last; 0 where that counts it itself."""
        self._taken = 0
        self._resume_at = 0

    @property
    def sampler(self) -> Loader:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to `epoch`; a loader that was put back inside that very epoch still goes on where it was."""
        if epoch != self.epoch:
            self.epoch, self._resume_at, self._taken = epoch, 0, 0

    def __len__(self) -> int:
        return self.order.num_batches

    def __iter__(self) -> Iterator[Batch]:
        first, self._resume_at = self._resume_at, 0
        batches = self.batches(self.epoch, first)
        for taken in range(first + 1, len(self) + 1):
            began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - began
            self.waited += waited
            self.waited_for_reader += waited * self.reading_share
            self._taken = taken
            yield batch

    @abstractmethod
    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of `epoch` from number `first` on."""

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {"epoch": self.epoch, "batches_taken": self._taken, "order": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; with another number of images, batch or world size, start its epoch again."""
        self.epoch = int(state["epoch"])
        self._resume_at = int(state["batches_taken"]) if state["order"] == self._fingerprint() else 0
        self._taken = self._resume_at  # a run may be saved again before its first batch, behind an owed validation

    def _fingerprint(self) -> dict[str, int]:
        order = self.order
        return {
            "num_images": order.num_images,
            "batch_size": order.batch_size,
            "world_size": order.world_size,
            "seed": order.seed,
            "repeats": order.repeats,
        }


def check_fits_memory(image_size: int) -> None:
    """Raises: InputError for images too large to be all kept decoded."""
    if image_size > LARGEST_IN_MEMORY:
        raise InputError(
            f"backend=memory is for images of up to {LARGEST_IN_MEMORY} pixels a side, and image_size={image_size}. "
            "Set --data.backend dali."
        )
