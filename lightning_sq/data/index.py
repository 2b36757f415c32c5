"""Which images there are: every file of a folder looked at once, so that no bad file reaches a pipeline."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from lightning_sq.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp"})
FORMAT_VERSION = 1


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
    bytes: np.ndarray  # (M,) int64
    mtimes: np.ndarray  # (M,) int64, nanoseconds


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the class subfolders, sorted.

    Raises: InputError if the folder is missing or has no subfolders.
    """
    if not folder.is_dir():
        raise InputError(
            f"There is no data folder {folder}. Set --data.root to one with train/<class>/ and val/<class>/."
        )
    names = tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")))
    if not names:
        raise InputError(f"{folder} has no class folders. Images are expected as {folder}/<class>/*.jpg.")
    return names


def load_index(folder: Path, *, cache: Path, progress: Callable[[int, int], None] | None = None) -> ImageIndex:
    """The index of `folder`, from `cache` as far as its files are unchanged; what is new is decoded and checked.

    Args:
        folder: One split: `folder/<class>/<image>`.
        cache: Folder for index files; written whole or not at all.
        progress: Called with (files checked, files to check).
    Raises: InputError if there are no images.
    """
    class_names = class_folders(folder)
    files = _list_files(folder, class_names)
    if not len(files.paths):
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{folder} holds no images. Put files ({suffixes}) in {folder}/<class>/.")
    path = index_path(folder, cache)
    heights, widths, reasons = _known(files, path)
    todo = [i for i in range(len(files.paths)) if heights[i] < 0]
    for done, (i, size, reason) in enumerate(_inspect_all(folder, files, todo), start=1):
        heights[i], widths[i] = size
        reasons[i] = reason
        if progress is not None:
            progress(done, len(todo))
    if todo:
        try:
            _save(path, files, heights, widths, reasons)
        except OSError as error:  # nothing is lost but the time to look again
            warnings.warn(
                f"The index cannot be kept in {cache} ({error.strerror}), so the files are looked at every time. "
                "Set LIGHTNING_SQ_CACHE to a folder that can be written.",
                stacklevel=2,
            )
    good = np.array([not reason for reason in reasons])
    return ImageIndex(
        folder=folder,
        class_names=class_names,
        paths=tuple(files.paths[good].tolist()),
        labels=files.labels[good],
        sizes=np.stack([heights, widths], axis=1)[good],
        unreadable=tuple(UnreadableImage(str(p), r) for p, r in zip(files.paths, reasons, strict=True) if r),
    )


def index_path(folder: Path, cache: Path) -> Path:
    """Where the index of `folder` is kept: the name tells the folder, the hash keeps two of one name apart."""
    whole = str(folder.resolve())
    return cache / f"{folder.resolve().parent.name}-{folder.name}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}.npz"


def _list_files(folder: Path, class_names: Sequence[str]) -> _Files:
    rows = []
    for label, name in enumerate(class_names):
        entries = sorted(os.scandir(folder / name), key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_file() and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                stat = entry.stat()
                rows.append((f"{name}/{entry.name}", label, stat.st_size, stat.st_mtime_ns))
    paths, labels, sizes, mtimes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return _Files(
        np.array(paths, dtype=np.str_),
        np.array(labels, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        np.array(mtimes, dtype=np.int64),
    )


def _known(files: _Files, path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(heights, widths, reasons) with -1 as the height of files that have to be looked at."""
    count = len(files.paths)
    heights, widths, reasons = np.full(count, -1, np.int32), np.full(count, -1, np.int32), [""] * count
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
            if int(saved["version"]) != FORMAT_VERSION:
                return heights, widths, reasons
            rows = {name: k for k, name in enumerate(saved["paths"].tolist())}
            columns = [saved[key] for key in ("bytes", "mtimes", "heights", "widths", "reasons")]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # none yet, or a damaged one: look again
        return heights, widths, reasons
    for i, name in enumerate(files.paths.tolist()):
        k = rows.get(name)
        if k is not None and columns[0][k] == files.bytes[i] and columns[1][k] == files.mtimes[i]:
            heights[i], widths[i], reasons[i] = columns[2][k], columns[3][k], str(columns[4][k])
    return heights, widths, reasons


def _save(path: Path, files: _Files, heights: np.ndarray, widths: np.ndarray, reasons: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            version=FORMAT_VERSION,
            paths=files.paths,
            bytes=files.bytes,
            mtimes=files.mtimes,
            heights=heights,
            widths=widths,
            reasons=np.array(reasons, dtype=np.str_),
        )
    temporary.replace(path)


def _inspect_all(folder: Path, files: _Files, todo: Sequence[int]) -> Iterator[tuple[int, tuple[int, int], str]]:
    # PIL warns of oddities that decode all the same; the filter is process-wide, so it is set here and not in a thread
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        results = pool.map(lambda i: inspect_image(folder / str(files.paths[i])), todo)
        for i, (size, reason) in zip(todo, results, strict=True):
            yield i, size, reason


def inspect_image(path: Path) -> tuple[tuple[int, int], str]:
    """((height, width), reason): decodes the whole file once; `reason` is empty if it is a readable image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            width, height = image.size
            image.load()
        return (height, width), ""
    except UnidentifiedImageError:
        return (0, 0), "empty" if path.stat().st_size == 0 else "not an image"
    except Image.DecompressionBombError:
        return (0, 0), f"more than {2 * Image.MAX_IMAGE_PIXELS} pixels"
    except OSError as error:
        return (0, 0), "truncated" if "truncated" in str(error).lower() else str(error)
    except (SyntaxError, ValueError) as error:  # PIL's PNG reader raises SyntaxError
        return (0, 0), str(error)
