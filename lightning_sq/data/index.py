"""The index of a folder: every file looked at once, so that no bad one reaches a pipeline."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lightning_sq.cores import usable_cores
from lightning_sq.data.image_index import ImageIndex, UnreadableImage
from lightning_sq.data.in_parts import map_in_parts
from lightning_sq.data.index_file import Columns, index_path, load_columns, save_columns
from lightning_sq.data.inspection import Look, inspect_file
from lightning_sq.data.listing import IMAGE_SUFFIXES, class_folders, list_files
from lightning_sq.data.shards import is_sharded, load_shards, read_manifest, shard_classes
from lightning_sq.errors import InputError
from lightning_sq.progress import progress_bar
from lightning_sq.stop_request import STOPPED, stop_requested
from lightning_sq.types import Progress

SECONDS_BETWEEN_SAVES = 60.0


def class_names_of(folder: Path) -> tuple[str, ...]:
    """The classes of one split, be it class folders or shards.

    Raises: InputError if `folder` is neither.
    """
    return shard_classes(folder) if is_sharded(folder) else class_folders(folder)


def count_images(folder: Path) -> int:
    """How many images one split has by its listing, be it class folders or shards; no file is looked at.

    Raises: InputError if `folder` is neither.
    """
    if is_sharded(folder):
        return read_manifest(folder)["images"]
    return len(list_files(folder, class_folders(folder))[0])


def load_index(
    folder: Path, *, cache: Path | None = None, again: bool = False, progress: Progress | None = None
) -> ImageIndex:
    """The index of `folder`, from `cache` as far as its files are unchanged; what is new is decoded and checked.

    Args:
        folder: One split: `folder/<class>/<image>`, or the shards of one.
        cache: Folder for index files, by default the user's; they are written whole or not at all.
        again: Look at every file, even at those of which size and time say that they are as they were.
        progress: Called with (files checked, files to check).
    Raises: InputError if there are no images, or if the system cannot read one; what was checked by then is kept.
    """
    if is_sharded(folder):  # their index was written with them
        return load_shards(folder)
    class_names = class_folders(folder)
    files, labels = list_files(folder, class_names)
    if not len(files):
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise InputError(f"{folder} holds no images. Put files ({suffixes}) in {folder}/<class>/.")
    path = index_path(folder, cache)
    saved = load_columns(path)
    _remember(files, saved)
    todo = list(range(len(files))) if again else np.flatnonzero(files.heights < 0).tolist()
    kept = time.monotonic()
    try:
        for done, (i, look) in enumerate(_inspect_all(folder, files, todo), start=1):
            _note(files, i, look)
            if time.monotonic() - kept > SECONDS_BETWEEN_SAVES:  # a kill asks nobody
                save_columns(path, files)
                kept = time.monotonic()
            if progress is not None:
                progress(done, len(todo))
    finally:  # an interrupted look at a million files goes on where it stopped
        if todo or files.paths != saved.paths:  # `kept_index` takes it for the folder
            save_columns(path, files)
    return _index_of(folder, class_names, files, labels)


def kept_index(folder: Path, *, cache: Path | None = None) -> ImageIndex | None:
    """The index of `folder` as `load_index` has left it in `cache`, without a question for each file.

    Returns: None if there is none, or one that is not of these classes or not finished.
    """
    if is_sharded(folder):
        return load_shards(folder)
    class_names, files = class_folders(folder), load_columns(index_path(folder, cache))
    numbers = {name: label for label, name in enumerate(class_names)}
    labels = np.array([numbers.get(path.partition("/")[0], -1) for path in files.paths], np.int64)
    if not len(files) or labels.min() < 0 or files.heights.min() < 0:
        return None
    return _index_of(folder, class_names, files, labels)


def look_through(folder: Path, *, again: bool = False) -> ImageIndex:
    """`load_index` with the user's cache and a progress bar.

    A training that is asked to stop meanwhile ends with exit status 75: what was looked at is kept, and nothing else
    was done.
    """
    with progress_bar(f"checking {folder}", "files") as advance:

        def advance_or_leave(done: int, total: int) -> None:
            advance(done, total)
            if who := stop_requested():
                print(f"Left while checking {folder}, because {who} asked for it. Start again: it goes on there.")
                raise SystemExit(STOPPED)

        return load_index(folder, again=again, progress=advance_or_leave)


def look_through_readable(folder: Path, *, allow_unreadable: bool) -> ImageIndex:
    """`look_through` for a command that leaves nothing out unless it is told to.

    Raises: InputError if images cannot be read and that is not allowed, or none can.
    """
    index = look_through(folder)
    if not len(index):
        raise InputError(f"{folder} has no image that can be read: {index.named_unreadable}. Mend them.")
    if index.unreadable and not allow_unreadable:
        raise InputError(
            f"{len(index.unreadable)} of the images in {folder} cannot be read: {index.named_unreadable}. "
            "Mend or remove them, or add --allow-unreadable to leave them out."
        )
    return index


def _index_of(folder: Path, class_names: tuple[str, ...], files: Columns, labels: np.ndarray) -> ImageIndex:
    good = np.flatnonzero(files.heights > 0)
    kinds: dict[str, list[str]] = {}
    for path, found in zip(files.paths, files.kinds, strict=True):
        for kind in found.split(",") if found else ():
            kinds.setdefault(kind, []).append(path)
    return ImageIndex(
        folder=folder,
        class_names=class_names,
        paths=tuple(files.paths[i] for i in good.tolist()),
        labels=labels[good],
        sizes=np.stack([files.heights, files.widths], axis=1)[good],
        digests=files.digests[good],
        kinds={kind: tuple(paths) for kind, paths in sorted(kinds.items())},
        unreadable=tuple(UnreadableImage(*bad) for bad in zip(files.paths, files.reasons, strict=True) if bad[1]),
    )


def _remember(files: Columns, saved: Columns) -> None:
    """Put what is `saved` of unchanged files into `files`."""
    if saved.paths == files.paths:  # the rule, and quick
        here = there = np.arange(len(files))
    else:
        rows = {name: k for k, name in enumerate(saved.paths)}
        pairs = [(i, rows[name]) for i, name in enumerate(files.paths) if name in rows]
        here, there = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    same = (saved.bytes[there] == files.bytes[here]) & (saved.mtimes[there] == files.mtimes[here])
    same &= files.bytes[here] >= 0
    here, there = here[same], there[same]
    for name in ("heights", "widths", "digests"):
        getattr(files, name)[here] = getattr(saved, name)[there]
    for i, k in zip(here.tolist(), there.tolist(), strict=True):
        files.reasons[i], files.kinds[i] = saved.reasons[k], saved.kinds[k]


def _note(files: Columns, i: int, look: Look) -> None:
    files.heights[i], files.widths[i] = look.height, look.width
    files.reasons[i], files.kinds[i] = look.reason, ",".join(look.kinds)
    files.digests[i] = np.frombuffer(look.digest, np.uint64)


def _inspect_all(folder: Path, files: Columns, todo: Sequence[int]) -> Iterator[tuple[int, Look]]:
    # PIL warns of oddities that decode all the same; the filter is process-wide, so it is set here and not in a thread
    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
        warnings.simplefilter("ignore")
        looks = map_in_parts(pool, lambda i: inspect_file(folder / files.paths[i]), todo)
        try:
            yield from zip(todo, looks, strict=True)
        finally:  # an error or an interruption does not wait for the rest
            pool.shutdown(cancel_futures=True)
