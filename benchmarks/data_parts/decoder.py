"""How fast DALI's mixed decoder is, and which share of the hardware engine serves best, for benchmarks/data.py."""

from __future__ import annotations

import argparse
import re
import time
from importlib.metadata import distributions
from statistics import median

import torch
from common.budget import Record
from common.harness import Row
from common.steps import rate
from data_parts.cuts import dataset_of, order_of
from data_parts.nvjpeg import nvjpeg_in_use

from lightning_sq.data.backends import make_loader
from lightning_sq.data.image_index import ImageIndex

SHARES = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
"""Of the images that go to the hardware engine, for --tune."""


def decoder_rows(record: Record, options: argparse.Namespace, index: ImageIndex) -> float:
    """Images/s of both transforms, at each of `SHARES` if they are to be tuned.

    Args:
        record: Takes the rows.
        options: tune, hw_decoder_load, training_batch_size, threads, rounds.
        index: The images of an epoch.
    Returns: the share that serves training best, of those that were tried.
    """
    best, guess = {}, 0.0
    for train in (True, False):
        what, tried = f"{'training' if train else 'validation'}, DALI GPU", {}
        for share in SHARES if options.tune else (options.hw_decoder_load,):
            question = f"{what}, batch {options.training_batch_size}, --data.hw_decoder_load {share}"
            if not record.allows(question, guess):
                continue
            began = time.perf_counter()
            tried[share] = decoder_rate(index, options, share, train=train)
            guess = time.perf_counter() - began
            record.add(Row(question, tried[share], "images/s", detail=nvjpeg_in_use(record)))
        if options.tune and tried:
            record.add(best_share_row(what, tried))
        best[train] = max(tried, key=tried.get, default=options.hw_decoder_load)
    return best[True]


def decoder_rate(index: ImageIndex, options: argparse.Namespace, share: float, *, train: bool) -> float:
    """Images/s of a loader that has the GPU to itself: it is let go before the next one is made."""
    order = order_of(len(index), options.training_batch_size, train=train)
    where = {"num_threads": options.threads, "device_id": 0, "hw_decoder_load": share}
    loader = make_loader(dataset_of(index, train=train), order, backend="dali", **where)
    rates = []
    for epoch in range(options.rounds):
        loader.set_epoch(epoch)
        rates.append(rate(loader, None, torch.device("cuda")))
    return median(rates)


def best_share_row(what: str, tried: dict[float, float]) -> Row:
    """The share with the most images/s, and a warning where the share makes no difference."""
    best = max(tried, key=tried.get)
    same = tried[best] <= 1.05 * min(tried.values())
    detail = {"warning": "all shares are within 5 % of each other: is nvJPEG used at all?"} if same else {}
    return Row(f"{what}: best --data.hw_decoder_load", best, "of the images", detail=detail)


def decoder_versions() -> dict[str, str]:
    """Of NVIDIA's packages that decode JPEG for DALI; which library was loaded says `nvjpeg_in_use`."""
    libraries = re.compile(r"nvidia-(nvjpeg|nvimgcodec)(-cu\d+)?")
    return {found.name: found.version for found in distributions() if libraries.fullmatch(found.name)}
