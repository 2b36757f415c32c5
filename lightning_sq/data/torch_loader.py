"""The same batches through PIL and torchvision: for machines without DALI, and to hold DALI against."""

from __future__ import annotations

import gc
import io
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_sq.data.inspection import inspect_bytes
from lightning_sq.data.loader import Dataset, Loader
from lightning_sq.data.order import EpochOrder
from lightning_sq.data.resize import cut_square
from lightning_sq.errors import InputError, one_line
from lightning_sq.stop_request import SIGNALS
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
        loader = DataLoader(
            _Images(self.dataset, epoch),
            batch_sampler=self.order.epoch(epoch)[first:].tolist(),
            collate_fn=self._collate,
            num_workers=self.num_workers,
            multiprocessing_context="fork" if self.num_workers else None,  # no crop rule can be pickled
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it would take from the stream that dropout draws from
            worker_init_fn=_leave_what_was_there,
        )
        with _no_collection(), _signals_blocked():
            received = iter(loader)  # starts the workers
        for batch in received:
            if isinstance(batch, InputError | OSError):
                raise batch
            images, labels, indices, self.reading_share = batch
            yield Batch(images, labels, indices)

    def _collate(self, samples: list[_Sample | _Failure]) -> tuple[Tensor, Tensor, Tensor, float] | _Failure:
        """A batch, and the share of the time for it in which its files were read."""
        for sample in samples:
            if not isinstance(sample, _Sample):
                return sample
        indices = np.array([sample.index for sample in samples], np.int64)
        images = torch.stack([sample.image for sample in samples])
        reading, whole = (sum(seconds) for seconds in zip(*(sample.seconds for sample in samples), strict=True))
        labels = torch.from_numpy(self.dataset.labels(indices))
        return images, labels, torch.from_numpy(indices), reading / whole


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keep back what asks to stop; a process that is forked inside never gets it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_what_was_there(worker: int) -> None:
    """A forked worker never collects what it has from its parent, and works on when others are asked to stop.

    A DALI pipeline among it that nobody needs any more would wait, or crash, for threads that the worker has not.
    torchrun asks all processes of a group, and a run that has still to save would fail by a worker that has gone.
    """
    gc.freeze()
    gc.enable()
    Thread(target=_end_by_parent_alone, daemon=True).start()


def _end_by_parent_alone() -> None:
    """Of `SIGNALS`, which are blocked here, a SIGTERM of the parent, with which Python ends what is left at its exit,
    still ends this process.
    """
    while True:
        received = signal.sigwaitinfo(SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
            os._exit(0)  # as torch's own handler does


class _Sample(NamedTuple):
    index: int
    image: Tensor
    seconds: tuple[float, float]  # reading, and all of it


_Failure = InputError | OSError


class _Images(torch.utils.data.Dataset):
    def __init__(self, dataset: Dataset, epoch: int) -> None:
        self.dataset, self.epoch = dataset, epoch

    def __getitem__(self, index: int) -> _Sample | _Failure:
        """A bad file's error, or a disk's, is handed over, for one raised in a worker arrives as its traceback."""
        began = time.perf_counter()
        try:
            encoded = self.dataset.read(index)
            read = time.perf_counter()
            image = decode(self.dataset, index, encoded)
        except (InputError, OSError) as error:
            return error
        crop = self.dataset.crop(self.epoch, index)
        window = np.array(image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)))
        size, channels = self.dataset.square(self.epoch), self.dataset.channels
        square = torch.empty(channels, size, size)
        cut_square(window.reshape(crop.height, crop.width, channels), crop, size, square.numpy())
        return _Sample(index, square, (read - began, time.perf_counter() - began))


def decode(dataset: Dataset, index: int, encoded: np.ndarray) -> Image.Image:
    """The whole image, grey or RGB, from what `dataset.read(index)` gave.

    Raises: InputError if its file is damaged, or another one than was indexed.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            mode = "L" if dataset.channels == 1 else "RGB"
            file.draft(mode, None)  # of a JPEG file grey is what it stores as luminance, as to DALI
            image = file.convert(mode)
    except Exception as error:  # PIL's readers raise whatever a damaged file makes them stumble over
        raise dataset.spoilt(index, inspect_bytes(encoded.tobytes(), "").reason or one_line(error)) from error
    if image.size != dataset.size(index)[::-1]:
        raise InputError(
            f"{dataset.where(index)} has another size than when it was indexed. Start again, for a new index."
        )
    return image
