"""Where an index is kept between runs: columns in one .npz file, a cache and nothing more."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np

from lightning_sq.paths import whole_file

FORMAT_VERSION = 2
"""Goes up when `inspect_image` answers differently, so that older answers are asked for again."""

COLUMNS = ("paths", "bytes", "mtimes", "heights", "widths", "reasons")


def index_path(folder: Path, cache: Path) -> Path:
    """Where the index of `folder` is kept: the name tells the folder, the hash keeps two of one name apart."""
    whole = str(folder.resolve())
    return cache / f"{folder.resolve().parent.name}-{folder.name}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}.npz"


def load_columns(path: Path) -> dict[str, np.ndarray]:
    """`COLUMNS`, all of one length; of length 0 if there is no file, or none that can be used."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
            columns = {name: saved[name] for name in COLUMNS} if int(saved["version"]) == FORMAT_VERSION else {}
    except Exception:  # a damaged zip raises whatever numpy, zipfile or zlib stumble over
        columns = {}
    shapes = {column.shape for column in columns.values()}
    whole = len(shapes) == 1 and len(shapes.pop()) == 1
    return columns if whole else {name: np.empty(0) for name in COLUMNS}


def save_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write `COLUMNS`, whole or not at all; where that cannot be, nothing is lost but the time to look again."""
    try:
        with whole_file(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, version=FORMAT_VERSION, **{name: columns[name] for name in COLUMNS})
    except OSError as error:
        warnings.warn(
            f"The index cannot be kept in {path.parent} ({error.strerror}), so the files are looked at every time. "
            "Set LIGHTNING_SQ_CACHE to a folder that can be written.",
            stacklevel=3,
        )
