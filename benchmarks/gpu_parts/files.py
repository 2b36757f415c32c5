"""Training from real JPEG files against training from memory, for benchmarks/gpu.py."""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common.budget import Record
from common.harness import Row
from data_parts.training import end_to_end, held_against_memory, training_loader
from gpu_parts.network import Network
from gpu_parts.training import FIRST_GUESS, goal

from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.index import load_index

JPEGS = "JPEGs"
IMAGENET_PIXELS = 180_000
"""Of a training image of ILSVRC 2012 on average, about 470 x 390: what a decoder's time goes by."""


def kind_of(index: ImageIndex) -> str:
    """What the files of an index are called: JPEGs, and with their size where it is not ImageNet's."""
    pixels = mean_pixels(index)
    if 0.75 <= pixels / IMAGENET_PIXELS <= 1.5:
        return JPEGS
    return f"{JPEGS} of {pixels:,.0f} pixels, not ImageNet's {IMAGENET_PIXELS:,}"


def mean_pixels(index: ImageIndex) -> float:
    """Of a whole image, before any crop."""
    return float(index.sizes.astype(np.float64).prod(1).mean())


def is_installed(library: str) -> bool:
    """Whether a library, such as "nvidia.dali", can be imported; its parent too."""
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:
        return False


def decoder(record: Record, gpu: bool) -> tuple[str, str]:
    """(backend, what it is called); without DALI torchvision's, and DALI's rows are skipped by name."""
    if is_installed("nvidia.dali"):
        return "dali", "DALI, mixed decoder" if gpu else "DALI on the CPU"
    record.skip("natural and method from JPEGs with DALI", "nvidia.dali is not installed; torchvision decodes instead")
    return "torchvision", "torchvision (PIL) in processes"


def file_rows(
    record: Record,
    options: argparse.Namespace,
    network: Network,
    *,
    batch_size: int,
    compiled: bool,
    guess: float = FIRST_GUESS,
) -> tuple[dict[str, float], str]:
    """Images/s of natural and method from files. Returns: (name -> images/s, what the files are called).

    Args:
        record: Takes the rows.
        options: data, image_size, batches (of an epoch; files are repeated to reach it), threads.
        network: That is trained.
        batch_size: Of a step.
        compiled: Whether the network is.
        guess: Seconds that the first of them may take; where it is compiled only now, that too.
    """
    if options.data is None:
        record.skip("natural and method from JPEGs", "no --data FOLDER with <class>/*.JPEG was given")
        return {}, JPEGS
    if not record.allows("natural and method from JPEGs", guess):
        return {}, JPEGS
    mode = "compiled" if compiled else "eager"
    backend, called = decoder(record, network.device.type == "cuda")
    rates: dict[str, float] = {}
    alone = 0.0
    with tempfile.TemporaryDirectory() as cache:
        samples = load_index(options.data, cache=Path(cache))
        index = samples.take(np.resize(np.arange(len(samples)), options.batches * batch_size))
        kind = kind_of(samples)
        for name in ("natural", "method"):
            what = f"{name}, {mode}, from {kind} by {called}"
            if not record.allows(what, guess):
                continue
            began = time.perf_counter()
            loader = training_loader(
                index, options.image_size, batch_size, options.threads, network.device, backend=backend
            )
            found = end_to_end(loader, network.step(name, compiled=compiled), network.device, rounds=2)
            guess = time.perf_counter() - began
            share, detail = held_against_memory(found, options.threads)
            detail |= {"files": len(samples), "pixels of a file": mean_pixels(samples), "threads": options.threads}
            rates[name], alone = found["files"], max(alone, found["loader"])
            to_reach = goal(found["files"]) if backend == "dali" and kind == JPEGS else ("reported", None)
            record.add(
                Row(f"{what}, batch {batch_size} at {options.image_size} px", found["files"], "images/s", *to_reach)
            )
            reached = share >= 0.95 if kind == JPEGS else None
            record.add(Row(f"{what}, against one batch in memory", share, "times", ">= 0.95", reached, detail))
    if rates:
        record.add(Row(f"the loader alone, {kind} by {called}, {options.threads} threads", alone, "images/s"))
    return rates, kind
