"""The LightningDataModule: a folder of image files in, batches for every rank out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn

from lightning_sq.data.backends import Backend, check_backend, check_num_threads, make_loader
from lightning_sq.data.crop import (
    CropRule,
    RandomShift,
    check_image_size,
    random_resized_crop,
    resize_and_center_crop,
)
from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.index import class_names_of, kept_index, look_through
from lightning_sq.data.loader import Dataset, Loader, check_fits_memory
from lightning_sq.data.order import EpochOrder, check_64_bit_seed
from lightning_sq.errors import InputError
from lightning_sq.words import counted, first_of

Split = Literal["train", "val"]


class ImageFolderData(LightningDataModule):
    """Images in `root/train/<class>/` and `root/val/<class>/`, read by DALI or torchvision, or kept in memory.

    Training takes random resized crops and flips, in a new global order each epoch; validation resizes the shorter
    side, takes the centre, and counts every image exactly once whatever the world size and batch size.

    Args:
        root: The data folder.
        backend: "dali" decodes on the GPU where there is one, else on the CPU; "torchvision" is PIL in processes;
            "memory" decodes everything once and keeps it, for small images that all have `image_size` pixels a side.
        image_size: Height and width of the network's input, in pixels.
        resize_size: Shorter side before the centre crop, in pixels; None is image_size * 256 / 224, or image_size with
            backend=memory, which does not resize.
        batch_size_per_device: Images a process takes in one step.
        num_threads: DALI's CPU threads (or torchvision's worker processes, 0 for none) for each process.
        min_crop_area: Smallest share of the image that a training crop shows; of no account with backend=memory.
        flip_probability: Of a left-right mirror in training; 0 where left and right matter.
        max_shift: With backend=memory: training moves an image by up to so many pixels, instead of cropping it.
        shift_epochs: In so many first epochs alone, so that the last see the images as they are; None is all of them.
        channels: 3 for RGB, 1 for grey.
        allow_unreadable_validation: Leave unreadable validation images out instead of refusing to start.
        batch_repeats: How often each training batch comes before the next one: m of free adversarial training. An
            epoch has m times the steps, so `max_epochs` is to be divided by m.
        hw_decoder_load: For DALI on a GPU with a JPEG engine: the share of images in [0, 1] that go to it.
        seed: Of order, crops and flips.
    """

    def __init__(
        self,
        root: str = "data/digits",
        backend: Backend = "dali",
        image_size: int = 224,
        resize_size: int | None = None,
        batch_size_per_device: int = 32,
        num_threads: int = 2,
        min_crop_area: float = 0.25,
        flip_probability: float = 0.5,
        max_shift: int = 0,
        shift_epochs: int | None = None,
        channels: Literal[1, 3] = 3,
        allow_unreadable_validation: bool = False,
        batch_repeats: int = 1,
        hw_decoder_load: float = 0.65,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_backend(backend)
        if channels not in (1, 3):
            raise InputError(f"channels={channels} is neither 3, for RGB, nor 1, for grey.")
        self.root = Path(root)
        self.backend = backend
        self.image_size = image_size
        if resize_size is None:
            resize_size = image_size if backend == "memory" else round(image_size * 256 / 224)
        self.resize_size = resize_size
        for name, value in {"batch_size_per_device": batch_size_per_device, "batch_repeats": batch_repeats}.items():
            if value < 1:
                raise InputError(f"{name}={value} is not at least 1.")
        if not 0 <= hw_decoder_load <= 1:
            raise InputError(f"hw_decoder_load={hw_decoder_load} is not in [0, 1], a share of the images. Write 0.65.")
        check_num_threads(num_threads, backend)
        check_64_bit_seed(seed)
        self.batch_repeats = batch_repeats
        self.hw_decoder_load = hw_decoder_load
        self.batch_size_per_device = batch_size_per_device
        self.num_threads = num_threads
        self.min_crop_area = min_crop_area
        self.flip_probability = flip_probability
        self.max_shift = max_shift
        self.shift_epochs = shift_epochs
        self.channels = channels
        self._check_memory_options()
        for split in ("train", "val"):
            self._crop_rule(split)
        self.allow_unreadable_validation = allow_unreadable_validation
        self.seed = seed
        self.class_names = self._common_classes()
        self._indexes: dict[Split, ImageIndex] = {}
        self._resizing: tuple[tuple[int, int], ...] = ()

    def _check_memory_options(self) -> None:
        if self.backend == "memory":
            check_image_size(self.image_size)
            check_fits_memory(self.image_size)
            if self.resize_size != self.image_size:
                raise InputError(
                    f"backend=memory takes images as they are, and resize_size={self.resize_size}. "
                    f"Set --data.resize_size {self.image_size}, or leave it out."
                )
            if self.max_shift >= self.image_size:
                raise InputError(
                    f"max_shift={self.max_shift} would move images of {self.image_size} pixels out of sight. Write 2."
                )
            return
        for name in ("max_shift", "shift_epochs"):
            if value := getattr(self, name):
                raise InputError(
                    f"{name}={value} is done by backend=memory alone, and backend={self.backend}. "
                    f"Set --data.backend memory, or leave {name} out."
                )

    def _common_classes(self) -> tuple[str, ...]:
        train, val = (class_names_of(self.root / split) for split in ("train", "val"))
        if train != val:
            odd = sorted(set(train) ^ set(val))
            raise InputError(
                f"{self.root}/train and {self.root}/val have different classes: {first_of(odd)} "
                f"{'is' if len(odd) == 1 else 'are'} in one of them only. Give both the same folders."
            )
        if len(train) == 1:
            raise InputError(
                f"{self.root}/train has one class alone, {train[0]!r}, and nothing to tell it from. "
                "Images are expected as train/<class>/ and val/<class>/, of at least two classes."
            )
        return train

    def prepare_data(self) -> None:
        """Look at every file that is new since the last time, once on each node, with a progress bar."""
        for split in ("train", "val"):
            self.index(split)

    def take_prepared(self, fingerprints: dict[Split, str]) -> None:
        """`prepare_data` behind another process's, whose images had these `fingerprints`: without listing the files.

        They are listed where the cache has no such index, as on a disk that was full.
        """
        for split, fingerprint in fingerprints.items():
            index = kept_index(self.root / split)
            if index is not None and index.fingerprint() == fingerprint:
                self._indexes[split] = index
        self.prepare_data()

    def fingerprints(self) -> dict[Split, str]:
        """Of both splits."""
        return {split: self.index(split).fingerprint() for split in ("train", "val")}

    def index(self, split: Split) -> ImageIndex:
        """The readable images of one split.

        Raises: InputError if there are none, if a class has none to train on, or if validation images are unreadable
            and not allowed to be.
        """
        if split not in self._indexes:
            index = look_through(self.root / split)
            self._report_unreadable(split, index)
            self._report_empty_classes(split, index)
            self._indexes[split] = index
        return self._indexes[split]

    def _report_empty_classes(self, split: Split, index: ImageIndex) -> None:
        empty = index.empty_classes
        if not empty:
            return
        found = f"{counted(len(empty), 'class')} without a readable image in {index.folder}: {first_of(empty)}"
        if split == "train" or not len(index):
            raise InputError(f"{found}. Add images, or remove the folders from train/ and val/.")
        rank_zero_warn(f"{found}. Validation says nothing of them.", stacklevel=2)

    def _report_unreadable(self, split: Split, index: ImageIndex) -> None:
        bad = index.unreadable
        if not bad:
            return
        found = f"{counted(len(bad), 'unreadable image')} in {index.folder}: {index.named_unreadable}"
        if split == "val" and not self.allow_unreadable_validation:
            raise InputError(f"{found}. Mend or remove them, or set --data.allow_unreadable_validation true.")
        rank_zero_warn(f"{found}. Skipped.", stacklevel=2)

    def loader(self, split: Split, *, rank: int = 0, world_size: int = 1, device_id: int | None = None) -> Loader:
        """Batches of one split for one rank.

        Args:
            split: "train" for random crops in a new order each epoch; "val" for centre crops, each image exactly once.
            rank: The global rank.
            world_size: Number of processes.
            device_id: The local GPU for DALI; None decodes on the CPU.
        """
        return make_loader(
            self._dataset(split),
            self._order(split, rank, world_size),
            backend=self.backend,
            num_threads=self.num_threads,
            device_id=device_id,
            hw_decoder_load=self.hw_decoder_load,
        )

    def resize_progressively(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Train on other sizes than `image_size`; validation stays as it is.

        Args:
            sizes: (first epoch, image size in pixels) in ascending order, from epoch 0 on.
        Raises: InputError for what is no such list, or with backend=memory.
        """
        if self.backend == "memory":
            raise InputError("backend=memory takes images as they are. Set --data.backend dali to resize them.")
        epochs = [first for first, _ in sizes]
        if not epochs or epochs[0] != 0 or epochs != sorted(set(epochs)):
            raise InputError(f"sizes={[*sizes]}: the epochs do not rise from 0. Write [[0, 128], [6, 224]].")
        for _, size in sizes:
            check_image_size(size)
        self._resizing = tuple((first, size) for first, size in sizes)

    def _dataset(self, split: Split) -> Dataset:
        resizing = self._resizing if split == "train" else ()
        rule = self._crop_rule(split)
        return Dataset(self.index(split), rule, self.image_size, self.seed, self.channels, resizing)

    def _crop_rule(self, split: Split) -> CropRule | RandomShift:
        """Raises: InputError for sizes, areas and probabilities that cannot be."""
        if self.backend == "memory":
            rule = RandomShift(self.max_shift, self.flip_probability, self.shift_epochs)
            return rule if split == "train" else RandomShift()
        if split == "val":
            return resize_and_center_crop(self.image_size, resize_size=self.resize_size)
        return random_resized_crop(
            self.image_size, min_crop_area=self.min_crop_area, flip_probability=self.flip_probability
        )

    def _order(self, split: Split, rank: int, world_size: int) -> EpochOrder:
        training = split == "train"
        return EpochOrder(
            len(self.index(split)),
            self.batch_size_per_device,
            world_size,
            rank,
            shuffle=training,
            pad_by_repeating=training,
            seed=self.seed,
            repeats=self.batch_repeats if training else 1,
        )

    def num_training_batches(self, world_size: int) -> int:
        """Steps an epoch, without building a loader."""
        return self._order("train", 0, world_size).num_batches

    def _rank_loader(self, split: Split) -> Loader:
        trainer = self.trainer
        assert trainer is not None
        device = trainer.strategy.root_device
        return self.loader(
            split,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            device_id=device.index if device.type == "cuda" and torch.cuda.is_available() else None,
        )

    def train_dataloader(self) -> Loader:
        return self._rank_loader("train")

    def val_dataloader(self) -> Loader:
        return self._rank_loader("val")

    def test_dataloader(self) -> Loader:
        return self._rank_loader("val")
