"""NVIDIA DALI as the decoder: the only file that imports it.

Files are read ahead by a few threads and handed to DALI with their crops, so DALI holds no order and no random state:
nothing of it has to be saved or restored, and a run resumes at any batch on any number of ranks. On a GPU the pipeline
does everything; on the CPU it decodes, and `data/resize` does the rest, several times as fast as DALI would.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple
from weakref import WeakMethod

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import feed_ndarray
from torch import Tensor

from lightning_sq.data.buffers import Buffers
from lightning_sq.data.crop import Crop
from lightning_sq.data.inspection import inspect_bytes
from lightning_sq.data.loader import Dataset, Loader
from lightning_sq.data.order import EpochOrder
from lightning_sq.data.resize import cut_square
from lightning_sq.errors import InputError, one_line
from lightning_sq.types import Batch

BATCHES_AHEAD = 2
"""Batches whose files are being read while DALI decodes the ones before; DALI itself keeps `PREFETCH` decoded."""
PREFETCH = 2
HW_DECODER_LOAD = 0.65  # DALI's own

_Columns = tuple[list[np.ndarray] | np.ndarray, ...]


class _Sample(NamedTuple):
    encoded: np.ndarray  # the file, uint8
    crop: Crop
    square: int  # image size of its epoch


class DaliLoader(Loader):
    """Decodes, crops, resizes and flips with DALI, on the GPU (mixed decoder) or on the CPU.

    Args:
        dataset: What to read and how to cut it.
        order: This rank's share.
        num_threads: DALI's CPU threads.
        device_id: The local GPU; None keeps everything on the CPU.
        hw_decoder_load: On a GPU with a JPEG engine, the share of images in [0, 1] that go to it.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: EpochOrder,
        *,
        num_threads: int,
        device_id: int | None,
        hw_decoder_load: float = HW_DECODER_LOAD,
    ) -> None:
        super().__init__(dataset, order)
        self.device_id = device_id
        self._decoding = decoder_options(device_id is not None, dataset.channels, hw_decoder_load)
        self._readers = ThreadPoolExecutor(max(4, num_threads), thread_name_prefix="read-images")
        self._cutters = ThreadPoolExecutor(num_threads, thread_name_prefix="cut-images")
        self._feed: Iterator[_Columns] = iter(())
        self._in_flight: deque[tuple[int, np.ndarray]] = deque(maxlen=BATCHES_AHEAD + PREFETCH + 2)
        self._buffers = Buffers()
        self._ahead: deque[tuple[list[_Sample], _Columns]] = deque()  # the batches in the pipeline
        self._running = False
        self._num_threads = num_threads
        self._pipeline = self._new_pipeline()

    @property
    def _finishes(self) -> bool:
        """Whether the pipeline gives finished images, or windows that are still to be cut."""
        return self.device_id is not None

    def _new_pipeline(self) -> Any:
        # weak, so that the pipeline goes with the loader at once: the garbage collector might come to it in a forked
        # worker of another loader, where its threads are not, and wait for them for ever
        next_feed = WeakMethod(self._next_feed)
        return self._build(lambda: next_feed()(), batch_size=self.order.batch_size, prefetch=PREFETCH)

    def _build(self, source: Callable[[], _Columns], *, batch_size: int, prefetch: int) -> Any:
        options = {"source": source, "decoding": self._decoding, "batch_size": batch_size}
        options |= {"num_threads": self._num_threads, "device_id": self.device_id, "prefetch_queue_depth": prefetch}
        if self._finishes:
            options |= {"channels": self.dataset.channels}
        pipeline = (_squares if self._finishes else _windows)(**options)
        pipeline.build()
        return pipeline

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        self._drain()
        rows = self.order.epoch(epoch)[first:]
        self._feed, self._running = self._read_ahead(epoch, rows), True
        for indices in rows:
            images = self._images(self._run()[0])
            yield self.dataset.batch(images, indices)

    def _drain(self) -> None:
        """Empty the pipeline of what an epoch, ended or abandoned, left in it: DALI can only be reset when empty."""
        self._feed = iter(())
        while self._running:
            try:
                self._run()
            except StopIteration:
                self._pipeline.reset()
                self._running = False
        self._ahead.clear()

    def _run(self) -> tuple[Any, ...]:
        try:
            return self._pipeline.run()
        except RuntimeError as error:
            self._running, self._pipeline = False, self._new_pipeline()  # the failed one still holds batches
            raise self._name_the_bad_file(error) from error

    def _name_the_bad_file(self, error: RuntimeError) -> InputError:
        """DALI does not say which file it stumbled over, so those that it had in hand are decoded one at a time."""
        in_hand = [(epoch, index) for epoch, indices in self._in_flight for index in indices.tolist()]
        feed = self._one_by_one(in_hand)
        alone = self._build(lambda: next(feed), batch_size=1, prefetch=1)
        for _, index in in_hand:
            try:
                alone.run()
            except InputError as found:
                return found
            except RuntimeError as found:
                encoded = self.dataset.read(index).tobytes()
                return self.dataset.spoilt(index, inspect_bytes(encoded, "").reason or f"DALI: {_reason(found)}")
        return InputError(f"DALI could not decode a batch, though it can each of its files: {_reason(error)}.")

    def _one_by_one(self, samples: list[tuple[int, int]]) -> Iterator[_Columns]:
        for sample in samples:
            columns = self._columns([self._read(*sample)])
            yield columns  # they are DALI's until the next ones are asked for

    def _next_feed(self) -> _Columns:
        return next(self._feed)

    def _read_ahead(self, epoch: int, rows: np.ndarray) -> Iterator[_Columns]:
        pending: deque[list[Future[_Sample]]] = deque()
        for indices in rows:
            self._in_flight.append((epoch, indices))
            pending.append([self._readers.submit(self._read, epoch, i) for i in indices.tolist()])
            if len(pending) > BATCHES_AHEAD:
                yield self._take(pending.popleft())
        while pending:
            yield self._take(pending.popleft())

    def _take(self, reading: list[Future[_Sample]]) -> _Columns:
        began = time.perf_counter()
        samples = [sample.result() for sample in reading]
        self.waited_for_reader += time.perf_counter() - began
        columns = self._columns(samples)
        self._ahead.append((samples, columns))
        return columns

    def _read(self, epoch: int, index: int) -> _Sample:
        return _Sample(self.dataset.read(index), self.dataset.crop(epoch, index), self.dataset.square(epoch))

    def _columns(self, samples: list[_Sample]) -> _Columns:
        """One column for each input of the pipeline."""
        encoded, crops = [sample.encoded for sample in samples], [sample.crop for sample in samples]
        integers, fractions = np.array([c[:4] for c in crops], np.int32), np.array([c[4:8] for c in crops], np.float32)
        window = [*np.ascontiguousarray(integers.reshape(-1, 2, 2).swapaxes(0, 1))]
        if not self._finishes:
            return encoded, *window
        box = [*np.ascontiguousarray(fractions.reshape(-1, 2, 2).swapaxes(0, 1))]
        square = np.array([(sample.square, sample.square) for sample in samples], np.float32)
        return encoded, *window, *box, square, np.array([crop.flip for crop in crops], np.int32)

    def _images(self, decoded: Any) -> Tensor:
        """DALI's buffer is written again by the next run, so nothing of it is kept. `run` has waited for this batch, on
        a GPU too, so what it was made of is let go.
        """
        samples, _ = self._ahead.popleft()
        if not self._finishes:
            return self._cut(decoded, samples)
        device = torch.device("cpu" if self.device_id is None else f"cuda:{self.device_id}")
        pixels = decoded.as_tensor()
        images = torch.empty(tuple(pixels.shape()), dtype=torch.float32, device=device)
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        feed_ndarray(pixels, images, cuda_stream=stream)
        return images

    def _cut(self, windows: Any, samples: list[_Sample]) -> Tensor:
        size = samples[0].square
        images = self._buffers.take(len(samples), self.dataset.channels, size, size)
        squares = images.numpy()

        def cut_every(first: int) -> None:
            for i in range(first, len(samples), self._num_threads):
                cut_square(np.asarray(windows[i]), samples[i].crop, size, squares[i])

        list(self._cutters.map(cut_every, range(self._num_threads)))
        return images


def _reason(error: RuntimeError) -> str:
    """The one line of DALI's message that says what happened."""
    _, found, after = str(error).partition("encountered:")
    return after.strip().partition("\n")[0] if found else one_line(error)


def decoder_options(on_gpu: bool, channels: int = 3, hw_decoder_load: float = HW_DECODER_LOAD) -> dict[str, Any]:
    """EXIF is ignored, as in torchvision, and the GPU enlarges JPEG's colour as the CPU does: smoothly."""
    options = {"output_type": types.GRAY if channels == 1 else types.RGB, "adjust_orientation": False}
    gpu = {"device": "mixed", "jpeg_fancy_upsampling": True, "hw_decoder_load": hw_decoder_load}
    return options | (gpu if on_gpu else {"device": "cpu"})


def _decoded(encoded: Any, window: Any, window_size: Any, decoding: dict[str, Any]) -> Any:
    pixels = {"normalized_anchor": False, "normalized_shape": False, "axes": [0, 1]}
    return fn.decoders.image_slice(encoded, window, window_size, **pixels, **decoding)


def _fed(source: Any, num_outputs: int) -> Any:
    """The columns of `source`, which are not copied: on the thread that asks for batches, and starts a GPU's kernels,
    it would take 5 to 20 ms a batch. Whoever gives them has to keep them until the batch has come out.
    """
    return fn.external_source(source=source, num_outputs=num_outputs, batch=True, no_copy=True)


@pipeline_def
def _windows(source: Any, decoding: dict[str, Any]) -> Any:
    """What each crop cuts out, (height, width, C) uint8 as stored."""
    return _decoded(*_fed(source, 3), decoding)


@pipeline_def
def _squares(source: Any, decoding: dict[str, Any], channels: int) -> Any:
    """The finished images: the resize is triangular with antialias, as in torchvision."""
    *where, start, end, square, flip = _fed(source, 7)
    box = {"roi_start": start, "roi_end": end, "size": square}
    images = fn.resize(_decoded(*where, decoding), **box, interp_type=types.INTERP_TRIANGULAR, antialias=True)
    scale = {"dtype": types.FLOAT, "std": [255.0] * channels}
    return fn.crop_mirror_normalize(images, mirror=flip, output_layout="CHW", **scale)
