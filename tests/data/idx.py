"""A tiny MNIST in the original's four files: the UCI digits, enlarged to 28 x 28 pixels."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from lightning_sq.data.digits import read_scans

NUM_TRAIN, NUM_TEST = 40, 20


def idx(values: np.ndarray) -> bytes:
    """Two zeros, 8 for unsigned bytes, the number of dimensions, each size in four bytes, the values."""
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def tiny_mnist() -> dict[str, np.ndarray]:
    """The arrays by the files' names, as many of each digit."""
    scans, digits = read_scans()
    order = np.argsort(digits, kind="stable")
    first = np.searchsorted(digits[order], np.arange(10))
    chosen = np.concatenate([order[first + k] for k in range((NUM_TRAIN + NUM_TEST) // 10)])
    images = np.kron(scans[chosen] * (255 / 16), np.ones((3, 3))).round().astype(np.uint8)
    images, labels = np.pad(images, ((0, 0), (2, 2), (2, 2))), digits[chosen]
    return {
        "train-images-idx3-ubyte": images[:NUM_TRAIN],
        "train-labels-idx1-ubyte": labels[:NUM_TRAIN],
        "t10k-images-idx3-ubyte": images[NUM_TRAIN:],
        "t10k-labels-idx1-ubyte": labels[NUM_TRAIN:],
    }


def write_idx(folder: Path, arrays: dict[str, np.ndarray], *, gzipped: bool = True) -> Path:
    """`folder`, with a file for each array."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        content = idx(values)
        (folder / f"{name}{'.gz' * gzipped}").write_bytes(gzip.compress(content) if gzipped else content)
    return folder
