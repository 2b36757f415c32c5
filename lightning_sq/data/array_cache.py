"""Arrays that can be made again, kept in the user's cache as one .npz file; one that cannot be used is as none."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np

from lightning_sq.paths import whole_file

LONGEST_PART = 20
"""Letters of a folder's name in its file's, each of up to 4 bytes: with the other one's, the rest and what `whole_file`
puts around it, a name may have 255."""


def kept_at(room: Path, folder: Path, *details: object) -> Path:
    """The file in `room` for what is known of `folder` (with `details`); a hash keeps two of one name apart."""
    folder = folder.resolve()
    key = hashlib.sha256(" ".join(map(str, (folder, *details))).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    name = "-".join([*(part[:LONGEST_PART] for part in (folder.parent.name, folder.name)), key])
    return room / f"{name}.npz"


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays by name; empty if there is no file, or none that can be used."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            return dict(kept)
    except Exception:  # a damaged zip raises whatever numpy, zipfile or zlib stumble over
        return {}


def save_arrays(path: Path, *, lost: str, **arrays: np.ndarray | int | str) -> None:
    """Write them, whole or not at all; where that cannot be, nothing is lost but time.

    Args:
        path: The file.
        lost: What that time is for, as in "so the files are looked at every time".
        arrays: By name.
    """
    try:
        with whole_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)
    except OSError as error:
        warnings.warn(
            f"Nothing can be kept in {path.parent} ({error.strerror}), {lost}. "
            "Set LIGHTNING_SQ_CACHE to a folder that can be written.",
            stacklevel=4,
        )
