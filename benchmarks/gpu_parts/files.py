"""Training from real JPEG files against training from memory, for benchmarks/gpu.py."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import torch
from common.budget import Record, is_installed
from common.harness import Row, device_name
from common.steps import rate
from data_parts.nvjpeg import nvjpeg_in_use
from data_parts.pixels import pixels_row, validation_images
from data_parts.training import HW_DECODER_LOAD, end_to_end, held_against_memory, training_loader
from gpu_parts.network import Network
from gpu_parts.training import FIRST_GUESS, Rates

from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.index import load_index

NVIDIA = (
    "NVIDIA's own ResNet-50 v1.5 with DALI: 2,470 on one A100 (github.com/NVIDIA/DeepLearningExamples, mixed precision)"
)
TO_REACH, STRETCH = 4000, 5000  # images/s of an H100-class GPU, from files
H100_CLASS = ("H100", "H200", "B200")
RESNET50 = ("resnet50", 224)
"""Architecture and image size that these numbers, and ImageNet's hours, are of."""
JPEGS = "JPEGs"
MOST_COMPARED = 256
"""Images of which the pixels are looked at, over all classes."""
MOST_ODD = 32
"""More of them, of odd kinds in turn."""
COMPARISON_GUESS = 15.0
"""Seconds that PIL takes for them in this process."""
SHARES = (0.4, 0.65, 0.9)
"""Of the images for the hardware engine, where none is given; data.py --tune tries more."""
SHARE_BATCHES = 16
"""Of the epoch in which one is tried."""
SHARE_GUESS = 8.0
"""Seconds of such an epoch with the pipeline's start."""
OF_A_PROCESS = 2
"""Batches that a DataLoader's process makes ahead."""
IMAGENET_PIXELS = 180_000
"""Of a training image of ILSVRC 2012 on average, about 470 x 390: what a decoder's time goes by."""


@dataclass
class FromFiles:
    """Images/s of the steps from files, what these and their decoder are called, and whether rows may judge by them.

    They may where it is DALI that decodes, the files are of ImageNet's size, and the network is `RESNET50`.
    """

    kind: str
    decoder: str
    judged: bool
    rates: Rates = field(default_factory=dict)


def goal(value: float) -> tuple[str, bool | None]:
    """What `RESNET50` is to reach from files on one GPU, and whether it does; nobody is held to it on smaller GPUs."""
    to_reach = f">= {TO_REACH:,} (stretch {STRETCH:,}) on an H100-class GPU; {NVIDIA}"
    return to_reach, value >= TO_REACH if any(name in device_name() for name in H100_CLASS) else None


def kind_of(index: ImageIndex) -> str:
    """What the files of an index are called: JPEGs, and with their size where it is not ImageNet's."""
    pixels = mean_pixels(index)
    if 0.75 <= pixels / IMAGENET_PIXELS <= 1.5:
        return JPEGS
    return f"{JPEGS} of {pixels:,.0f} pixels, not ImageNet's {IMAGENET_PIXELS:,}"


def mean_pixels(index: ImageIndex) -> float:
    """Of a whole image, before any crop."""
    return float(index.sizes.astype(np.float64).prod(1).mean())


def decoder(record: Record, gpu: bool) -> tuple[str, str]:
    """(backend, what it is called); without DALI torchvision's, and DALI's rows are skipped by name."""
    if is_installed("nvidia.dali"):
        return "dali", "DALI, mixed decoder" if gpu else "DALI on the CPU"
    record.skip("natural and method from JPEGs with DALI", "nvidia.dali is not installed; torchvision decodes instead")
    return "torchvision", "torchvision (PIL) in processes"


def processes(record: Record, options: argparse.Namespace) -> int:
    """How many decode in DALI's place: fewer than --threads where they would not fit into shared memory, which is said.

    Besides those that each holds there, the batch that is taken and the one before it lie there.
    """
    batch, free = 12 * options.batch_size * options.image_size**2, shutil.disk_usage("/dev/shm").free
    fitting = max(1, (free // batch - 2) // OF_A_PROCESS)
    if fitting >= options.threads:
        return options.threads
    why = f"{free / 1e6:,.0f} MB of /dev/shm are free, and each takes {OF_A_PROCESS} batches of {batch / 1e6:,.0f} MB"
    record.skip(f"{options.threads - fitting} of {options.threads} processes that decode", why)
    return fitting


def compare_pixels(record: Record, options: argparse.Namespace, samples: ImageIndex, device: torch.device) -> None:
    """How far the validation images that DALI decodes, on the GPU where there is one, are from PIL's."""
    question = "validation pixels, DALI against PIL"
    if not record.allows(question, COMPARISON_GUESS):
        return
    some, sizes = samples.take(compared(samples)), {"batch_size": options.batch_size, "size": options.image_size}
    with record.section(question):
        # PIL in this process: one that is forked has the GPU's driver and nothing of its threads
        pil, _ = validation_images(some, "torchvision", threads=0, **sizes)
        gpu = 0 if device.type == "cuda" else None
        dali, _ = validation_images(some, "dali", threads=options.threads, device_id=gpu, **sizes)
        record.add(pixels_row(question, some, dali, pil))


def compared(index: ImageIndex) -> np.ndarray:
    """Positions of the images whose pixels are looked at: some of each odd kind that there is, a CMYK file say, and
    `MOST_COMPARED` over all classes, of which hardly one is odd.
    """
    positions = {path: i for i, path in enumerate(index.paths)}
    in_turn = (path for paths in zip_longest(*index.kinds.values()) for path in paths if path in positions)
    odd = [positions[path] for path in islice(dict.fromkeys(in_turn), MOST_ODD)]
    spread = np.linspace(0, len(index) - 1, min(MOST_COMPARED, len(index))).round().astype(np.int64)
    return np.array(list(dict.fromkeys([*odd, *spread.tolist()])))


def try_shares(record: Record, options: argparse.Namespace, samples: ImageIndex, batch_size: int, gpu: bool) -> float:
    """The hardware engine's share that the rows from files, and `lightning-sq fit` behind them, take: the one that was
    given, or on a GPU that of `SHARES` with which DALI alone is fastest. DALI's own where there is nothing to try.
    """
    if options.hw_decoder_load is not None:
        return options.hw_decoder_load
    if not gpu:
        return HW_DECODER_LOAD
    index = samples.take(np.resize(np.arange(len(samples)), SHARE_BATCHES * batch_size))
    sizes, device, tried = (options.image_size, batch_size, options.threads), torch.device("cuda"), {}
    with record.section("the hardware engine's share"):
        for share in SHARES:
            if record.allows(f"the loader alone, --data.hw_decoder_load {share}", SHARE_GUESS):
                tried[share] = rate(training_loader(index, *sizes, device, hw_decoder_load=share), None, device)
    if not tried:
        return HW_DECODER_LOAD
    best = max(tried, key=tried.get)
    detail = {"images/s by share": tried}
    record.add(Row("--data.hw_decoder_load of the rows from files", best, "of the images", detail=detail))
    options.hw_decoder_load = record.settings["hw_decoder_load"] = best
    return best


def file_rows(record: Record, options: argparse.Namespace, network: Network, batch_size: int) -> FromFiles | None:
    """Images/s of natural and method from files, not compiled, as `lightning-sq fit` trains. Returns: None without any.

    Before them come DALI's pixels against PIL's: a speed is of no use where the images are others.

    Args:
        record: Takes the rows.
        options: data, architecture, image_size, batches (of an epoch; files are repeated to reach it), threads,
            hw_decoder_load (None: the best of a few, which is written there).
        network: That is trained.
        batch_size: Of a step.
    """
    if options.data is None:
        record.skip("natural and method from JPEGs", "no --data FOLDER with <class>/*.JPEG was given")
        return None
    if not record.allows("natural and method from JPEGs", FIRST_GUESS):
        return None
    backend, called = decoder(record, network.device.type == "cuda")
    alone, guess = 0.0, FIRST_GUESS
    with tempfile.TemporaryDirectory() as cache:
        samples = load_index(options.data, cache=Path(cache))
        if backend == "dali":
            compare_pixels(record, options, samples, network.device)
        gpu = backend == "dali" and network.device.type == "cuda"
        share_of_engine = try_shares(record, options, samples, batch_size, gpu)
        batches = options.batches if backend == "dali" else max(options.batches, 2 * options.threads)  # `rate` asks it
        index = samples.take(np.resize(np.arange(len(samples)), batches * batch_size))
        kind = kind_of(samples)
        resnet50 = (options.architecture, options.image_size) == RESNET50
        result = FromFiles(kind, called, judged=backend == "dali" and kind == JPEGS and resnet50)
        for name in ("natural", "method"):
            what = f"{name}, eager, from {kind} by {called}"
            if not record.allows(what, guess):
                continue
            began = time.perf_counter()
            sizes, how = (options.image_size, batch_size, options.threads), {"backend": backend}
            loader = training_loader(index, *sizes, network.device, hw_decoder_load=share_of_engine, **how)
            found = end_to_end(loader, network.step(name, compiled=False), network.device, rounds=2)
            guess = time.perf_counter() - began
            share, detail = held_against_memory(found, options.threads, share_of_engine if gpu else None)
            detail |= {"files": len(samples), "pixels of a file": mean_pixels(samples), "threads": options.threads}
            warning = nvjpeg_in_use(record) if gpu else {}
            result.rates[name], alone = found["files"], max(alone, found["loader"])
            where = f"{options.architecture}, batch {batch_size} at {options.image_size} px"
            to_reach = goal(found["files"]) if result.judged else ("reported", None)
            record.add(Row(f"{what}, {where}", found["files"], "images/s", *to_reach, warning))
            reached = share >= 0.95 if backend == "dali" and kind == JPEGS else None
            record.add(
                Row(f"{what}, against one batch in memory", share, "times", ">= 0.95", reached, detail | warning)
            )
    if result.rates:
        record.add(Row(f"the loader alone, {kind} by {called}, {options.threads} threads", alone, "images/s"))
    return result
