"""What a folder alone tells: its classes, and each file's name, size and time, in seconds for a million of them."""

from __future__ import annotations

import errno
import os
import stat
import time
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_sq.data.index_file import Columns
from lightning_sq.data.shards import is_sharded
from lightning_sq.errors import MENDABLE, InputError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LISTING_THREADS = 16
"""More than there are cores: on a network file system each answer is waited for."""
CLASSES_AT_ONCE = 32


class Listed(NamedTuple):
    """The files of one class; `array`s, because a million tuples keep Python's garbage collector busy."""

    paths: list[str]
    sizes: array[int]
    mtimes: array[int]


def splits_of(folder: Path) -> list[Path]:
    """train/ and val/ below `folder`, as far as they are there; else `folder` itself.

    One of them alone among other folders, and with no classes in it, is a class: CIFAR-100 has one called train.

    Raises: InputError if one of them cannot be listed.
    """
    splits = [folder / name for name in ("train", "val") if (folder / name).is_dir()]
    if len(splits) != 1:
        return splits or [folder]
    have_classes = any(is_sharded(split) or _folders_in(split) for split in splits)
    return splits if have_classes or len(_folders_in(folder)) == len(splits) else [folder]


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the class subfolders, sorted.

    Raises: InputError if the folder is missing or has no subfolders.
    """
    if not folder.is_dir():
        raise _missing(folder)
    names = _folders_in(folder)
    if not names:
        raise InputError(f"{folder} has no class folders. Images are expected as {folder}/<class>/*.jpg.")
    return names


def _missing(split: Path) -> InputError:
    told, above = f"There is no data folder {split}", split.absolute().parent.parent
    if (above / "train").is_dir() and (above / "val").is_dir():  # one of these was given in the place of both
        return InputError(f"{told}, but {above} has train/ and val/: give that one (fit: by --data.root).")
    return InputError(f"{told}. Give one with train/<class>/ and val/<class>/ (fit: by --data.root).")


def _folders_in(folder: Path) -> tuple[str, ...]:
    return tuple(e.name for e in _entries(folder) if not e.name.startswith(".") and _is_folder(e))


def list_files(folder: Path, class_names: Sequence[str]) -> tuple[Columns, np.ndarray]:
    """(columns of files that nobody has looked at, labels): what the folder alone tells."""
    classes = list(_list_classes(folder, class_names))
    sizes, mtimes = (
        np.concatenate([np.empty(0, np.int64), *columns])
        for columns in ([listed.sizes for listed in classes], [listed.mtimes for listed in classes])
    )
    labels = np.repeat(np.arange(len(class_names), dtype=np.int64), [len(listed.paths) for listed in classes])
    return Columns.unseen([path for listed in classes for path in listed.paths], sizes, mtimes), labels


def _list_classes(folder: Path, class_names: Sequence[str]) -> Iterator[Listed]:
    """Each class, by many threads as long as answers are waited for, and by one as long as they are not.

    Where the system answers from memory, threads wait for Python's lock instead, and many take three times as long.
    """
    waiting = True
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        for first in range(0, len(class_names), CLASSES_AT_ONCE):
            began, busy = time.perf_counter(), time.process_time()
            at_once = class_names[first : first + CLASSES_AT_ONCE]
            yield from list((pool.map if waiting else map)(partial(_list_class, folder), at_once))
            waiting = time.process_time() - busy < (time.perf_counter() - began) / 2


def _list_class(folder: Path, class_name: str) -> Listed:
    """One class; written for a million files, of which each costs 4 microseconds.

    A file that the system says nothing of, as of a broken link, has a size and a time of -1: `inspect_file` finds out
    why, every time.
    """
    listed = Listed([], array("q"), array("q"))
    with _opened(folder / class_name) as descriptor:
        for name in sorted(os.listdir(descriptor)):  # noqa: PTH208 (a descriptor is no Path)
            if name.startswith(".") or not name.lower().endswith(IMAGE_SUFFIXES):  # macOS hides a file beside each
                continue
            try:
                found = os.stat(name, dir_fd=descriptor)
            except OSError:
                size, mtime = -1, -1
            else:
                if stat.S_ISDIR(found.st_mode):
                    continue
                size, mtime = found.st_size, found.st_mtime_ns
            listed.paths.append(f"{class_name}/{name}")
            listed.sizes.append(size)
            listed.mtimes.append(mtime)
    return listed


def passed_over(folder: Path, class_names: Sequence[str]) -> list[str]:
    """What lies beside the classes, or in them and is no image by its name, relative to `folder`: files and folders."""
    beside = (entry.name for entry in _entries(folder) if entry.name not in class_names)
    return [name for name in beside if not name.startswith(".")] + [
        f"{class_name}/{entry.name}"
        for class_name in class_names
        for entry in _entries(folder / class_name)
        if not entry.name.startswith(".") and (not entry.name.lower().endswith(IMAGE_SUFFIXES) or _is_folder(entry))
    ]


@contextmanager
def _listable(folder: Path) -> Iterator[None]:
    """Raises: InputError for what a person can mend where `folder` cannot be listed, and else the OSError."""
    try:
        yield
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        raise InputError(f"{folder} cannot be listed ({error.strerror}). Mend its permissions.") from error


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    with _listable(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with _listable(folder):
        return sorted(os.scandir(folder), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with _listable(Path(entry.path)):
        try:
            return entry.is_dir()  # from the listing, without a question for each file
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link in a circle
                return False
            raise
