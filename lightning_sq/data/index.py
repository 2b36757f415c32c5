"""Which images there are: every file of a folder looked at once, so that no bad file reaches a pipeline."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_sq.data.index_file import index_path, load_columns, save_columns
from lightning_sq.data.inspection import inspect_image
from lightning_sq.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


class UnreadableImage(NamedTuple):
    """A file that looks like an image by its name and is none."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageIndex:
    """The readable images of one split, in a fixed order: an image's position here is its identity everywhere.

    Args:
        folder: The split's folder; `paths` are relative to it.
        class_names: The subfolders' names, sorted; a label is a position in this tuple.
        paths: One path for each image.
        labels: (N,) int64.
        sizes: (N, 2) int32, height and width as stored (before any EXIF rotation).
        unreadable: The files left out, with the reason.
    """

    folder: Path
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    unreadable: tuple[UnreadableImage, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def empty_classes(self) -> tuple[str, ...]:
        """The classes without a readable image."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return tuple(name for name, count in zip(self.class_names, counts, strict=True) if not count)

    def take(self, positions: np.ndarray) -> ImageIndex:
        """The images at `positions` only, in that order."""
        return replace(
            self,
            paths=tuple(self.paths[i] for i in positions.tolist()),
            labels=self.labels[positions],
            sizes=self.sizes[positions],
        )


class _Files(NamedTuple):
    """What a look at the folder alone tells, file by file: enough to see that nothing has changed."""

    paths: np.ndarray  # (M,) str
    labels: np.ndarray  # (M,) int64
    bytes: np.ndarray  # (M,) int64, -1 if the file cannot even be asked
    mtimes: np.ndarray  # (M,) int64, nanoseconds


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


def load_index(folder: Path, *, cache: Path, progress: Callable[[int, int], None] | None = None) -> ImageIndex:
    """The index of `folder`, from `cache` as far as its files are unchanged; what is new is decoded and checked.

    Args:
        folder: One split: `folder/<class>/<image>`.
        cache: Folder for index files; written whole or not at all.
        progress: Called with (files checked, files to check).
    Raises: InputError if there are no images, or if the system cannot read one; what was checked by then is kept.
    """
    class_names = class_folders(folder)
    files = _list_files(folder, class_names)
    if not len(files.paths):
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{folder} holds no images. Put files ({suffixes}) in {folder}/<class>/.")
    path = index_path(folder, cache)
    heights, widths, reasons = _known(files, path)
    todo = [i for i in range(len(files.paths)) if heights[i] < 0]
    try:
        for done, (i, size, reason) in enumerate(_inspect_all(folder, files, todo), start=1):
            heights[i], widths[i] = size
            reasons[i] = reason
            if progress is not None:
                progress(done, len(todo))
    finally:  # an interrupted look at a million files goes on where it stopped
        if todo:
            looked = {"heights": heights, "widths": widths, "reasons": np.array(reasons, dtype=np.str_)}
            save_columns(path, files._asdict() | looked)
    good = np.array([not reason for reason in reasons])
    return ImageIndex(
        folder=folder,
        class_names=class_names,
        paths=tuple(files.paths[good].tolist()),
        labels=files.labels[good],
        sizes=np.stack([heights, widths], axis=1)[good],
        unreadable=tuple(UnreadableImage(str(p), r) for p, r in zip(files.paths, reasons, strict=True) if r),
    )


def _list_files(folder: Path, class_names: Sequence[str]) -> _Files:
    rows = []
    for label, name in enumerate(class_names):
        for entry in _entries(folder / name):
            if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not _is_folder(entry):
                rows.append((f"{name}/{entry.name}", label, *_size_and_time(entry)))
    paths, labels, sizes, mtimes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return _Files(
        np.array(paths, dtype=np.str_),
        np.array(labels, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        np.array(mtimes, dtype=np.int64),
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}). Mend its permissions.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # from the listing, without a question for each file
    except OSError:  # a link in a circle
        return False


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    """(-1, -1) if the system does not tell, as of a broken link: `inspect_image` finds out why, every time."""
    try:
        found = entry.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _known(files: _Files, path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(heights, widths, reasons) with -1 as the height of files that have to be looked at."""
    count = len(files.paths)
    heights, widths, reasons = np.full(count, -1, np.int32), np.full(count, -1, np.int32), [""] * count
    saved = load_columns(path)
    rows = {name: k for k, name in enumerate(saved["paths"].tolist())}
    for i, name in enumerate(files.paths.tolist()):
        k = rows.get(name)
        if k is not None and saved["bytes"][k] == files.bytes[i] >= 0 and saved["mtimes"][k] == files.mtimes[i]:
            heights[i], widths[i], reasons[i] = saved["heights"][k], saved["widths"][k], str(saved["reasons"][k])
    return heights, widths, reasons


def _inspect_all(folder: Path, files: _Files, todo: Sequence[int]) -> Iterator[tuple[int, tuple[int, int], str]]:
    # PIL warns of oddities that decode all the same; the filter is process-wide, so it is set here and not in a thread
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        results = pool.map(lambda i: inspect_image(folder / str(files.paths[i])), todo)
        try:
            for i, (size, reason) in zip(todo, results, strict=True):
                yield i, size, reason
        finally:  # an error or an interruption does not wait for the rest
            pool.shutdown(cancel_futures=True)
