"""Where an index is kept between runs: columns in one .npz file, a cache and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from lightning_sq.data.array_cache import kept_at, load_arrays, save_arrays
from lightning_sq.paths import cache_folder

FORMAT_VERSION = 3
"""Goes up when `inspect_file` answers differently, so that older answers are asked for again."""

TEXTS = ("paths", "reasons", "kinds")


@dataclass
class Columns:
    """What is known of M files, each column of that length.

    Args:
        paths: Relative to the folder.
        bytes: (M,) int64, -1 if the file cannot even be asked.
        mtimes: (M,) int64, nanoseconds.
        heights, widths: (M,) int32, as stored; a height of -1 means that nobody has looked yet.
        reasons: Why it is left out; empty for images.
        kinds: What is odd about it, separated by commas.
        digests: (M, 2) uint64, of its bytes.
    """

    paths: list[str]
    bytes: np.ndarray
    mtimes: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    reasons: list[str]
    kinds: list[str]
    digests: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def unseen(cls, paths: list[str], num_bytes: np.ndarray, mtimes: np.ndarray) -> Columns:
        """Of files that nobody has looked at."""
        count = len(paths)
        height, width = np.full((2, count), -1, np.int32)
        digests = np.zeros((count, 2), np.uint64)
        return cls(paths, num_bytes, mtimes, height, width, [""] * count, [""] * count, digests)


def index_path(folder: Path, cache: Path | None = None) -> Path:
    """Where the index of `folder` is kept, by default in the user's cache."""
    return kept_at(cache or cache_folder() / "indexes", folder)


def pack(texts: Sequence[str]) -> np.ndarray:
    """Any number of texts as one array of bytes, a fiftieth of what numpy's own arrays of text take."""
    return np.frombuffer("".join(f"{text}\0" for text in texts).encode("utf-8", "surrogateescape"), np.uint8)


def unpack(packed: np.ndarray) -> list[str]:
    """What `pack` was given."""
    return packed.tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1]


def load_columns(path: Path) -> Columns:
    """All columns, of one length; of length 0 if there is no file, or none that can be used."""
    kept = load_arrays(path)
    try:
        if int(kept["version"]) == FORMAT_VERSION:
            read = {f.name: unpack(kept[f.name]) if f.name in TEXTS else kept[f.name] for f in fields(Columns)}
            if len({len(column) for column in read.values()}) == 1 and read["digests"].shape[1:] == (2,):
                return Columns(**read)
    except (KeyError, TypeError, ValueError):  # of other columns, or of others' making
        pass
    return Columns.unseen([], np.empty(0, np.int64), np.empty(0, np.int64))


def save_columns(path: Path, columns: Columns) -> None:
    """Write them, whole or not at all; where that cannot be, nothing is lost but the time to look again."""
    written = {name: pack(values) if name in TEXTS else values for name, values in vars(columns).items()}
    save_arrays(path, lost="so the files are looked at every time", version=FORMAT_VERSION, **written)
