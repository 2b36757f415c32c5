"""What a folder alone tells: its classes, and each file's name, size and time, in seconds for a million of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lightning_sq.data.index_file import Columns
from lightning_sq.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LISTING_THREADS = 16
"""More than there are cores: on a network file system each answer is waited for."""


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the class subfolders, sorted.

    Raises: InputError if the folder is missing or has no subfolders.
    """
    if not folder.is_dir():
        raise InputError(
            f"There is no data folder {folder}. Set --data.root to one with train/<class>/ and val/<class>/."
        )
    names = tuple(e.name for e in _entries(folder) if _is_folder(e) and not e.name.startswith("."))
    if not names:
        raise InputError(f"{folder} has no class folders. Images are expected as {folder}/<class>/*.jpg.")
    return names


def list_files(folder: Path, class_names: Sequence[str]) -> tuple[Columns, np.ndarray]:
    """(columns of files that nobody has looked at, labels): what the folder alone tells."""
    paths, asked, counts = [], [np.empty((0, 2), np.int64)], []
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        for names, sizes_and_times in pool.map(lambda name: _list_class(folder, name), class_names):
            paths += names
            asked.append(np.array(sizes_and_times, np.int64).reshape(-1, 2))
            counts.append(len(names))
    sizes, mtimes = np.concatenate(asked).T
    labels = np.repeat(np.arange(len(class_names), dtype=np.int64), counts)
    return Columns.unseen(paths, sizes.copy(), mtimes.copy()), labels


def _list_class(folder: Path, class_name: str) -> tuple[list[str], list[tuple[int, int]]]:
    """(paths, (bytes, nanoseconds)) of one class; written for a million files, of which each costs 4 microseconds.

    A file that the system says nothing of, as of a broken link, has (-1, -1): `inspect_file` finds out why, every time.
    """
    paths, asked = [], []
    with _opened(folder / class_name) as descriptor:
        for name in sorted(os.listdir(descriptor)):  # noqa: PTH208 (a descriptor is no Path)
            if not name.lower().endswith(IMAGE_SUFFIXES):
                continue
            try:
                found = os.stat(name, dir_fd=descriptor)
            except OSError:
                size_and_time = -1, -1
            else:
                if stat.S_ISDIR(found.st_mode):
                    continue
                size_and_time = found.st_size, found.st_mtime_ns
            paths.append(f"{class_name}/{name}")
            asked.append(size_and_time)
    return paths, asked


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unlistable(folder, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unlistable(folder: Path, error: OSError) -> InputError:
    return InputError(f"{folder} cannot be listed ({error.strerror}). Mend its permissions.")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unlistable(folder, error) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # from the listing, without a question for each file
    except OSError:  # a link in a circle
        return False
