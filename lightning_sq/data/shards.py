"""Shards: the images of one split in a few large tar files, for file systems on which opening a file is dear.

An image keeps its position in the index, so order, crops and resuming are those of the folder that the shards were made
from; its bytes are read at a known place of a file that stays open. The tar files are WebDataset's, and beside each
lies DALI's index, so that other readers can stream them; within a shard the images of all classes are mixed.
"""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

import numpy as np

from lightning_sq.cores import usable_cores
from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.index_file import pack, unpack
from lightning_sq.errors import InputError
from lightning_sq.paths import sha256, whole_file
from lightning_sq.types import Progress

INDEX = "index.npz"
MANIFEST = "shards.json"
FORMAT_VERSION = 1
MOST_OPEN_FILES = 384
"""Of one split. A process may usually open 1,024, for two splits and all else; of shards beyond these each read opens
its file anew."""


@dataclass(frozen=True)
class ShardIndex(ImageIndex):
    """An index of images that lie in shards; `paths` are those of the files that they were made from.

    Args:
        shards: The tar files' names.
        places: (N, 3) int64: number of the shard, offset and length in bytes.
    """

    shards: tuple[str, ...] = ()
    places: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int64))
    _files: _OpenFiles = field(default_factory=lambda: _OpenFiles(), compare=False, repr=False)

    def take(self, positions: np.ndarray) -> ShardIndex:
        return replace(super().take(positions), places=self.places[positions])

    def where(self, i: int) -> str:
        return f"{self.folder / self.shards[self.places[i, 0]]} ({self.paths[i]})"

    @property
    def remedy(self) -> str:
        return "Fetch that shard again, or make it again by `lightning-sq data shard`, and resume."

    def read(self, i: int) -> np.ndarray:
        number, offset, length = self.places[i].tolist()
        return np.frombuffer(self._files.read(self.folder / self.shards[number], offset, length), np.uint8)


class _OpenFiles:
    """Files that stay open as long as this does, and are read at any place by any thread."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._lock = Lock()

    def read(self, path: Path, offset: int, length: int) -> bytes:
        """Raises: OSError."""
        with self._lock:
            descriptor = self._descriptors.get(path)
            if descriptor is None and len(self._descriptors) < MOST_OPEN_FILES:
                descriptor = self._descriptors[path] = os.open(path, os.O_RDONLY)
        if descriptor is not None:
            found = _read_at(descriptor, offset, length)
        else:
            with path.open("rb") as stream:
                found = _read_at(stream.fileno(), offset, length)
        if len(found) < length:
            raise OSError(errno.EIO, f"{len(found):,} of {length:,} bytes could be read", str(path))
        return found

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    """What stands there, less only at the end of the file; the system may give less at once, as where a disk fails."""
    found = os.pread(descriptor, length, offset)
    while len(found) < length and (more := os.pread(descriptor, length - len(found), offset + len(found))):
        found += more
    return found


def is_sharded(folder: Path) -> bool:
    """Whether `folder` holds shards, all of them."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict:
    """What `lightning-sq data shard` says of the shards. Raises: InputError if it is none of its."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format_version"] == FORMAT_VERSION:
            return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} is not what `lightning-sq data shard` writes. Make it again.") from error
    raise InputError(f"{folder} holds shards of another format. Make them again with `lightning-sq data shard`.")


def shard_classes(folder: Path) -> tuple[str, ...]:
    """The class names of a folder of shards."""
    return tuple(read_manifest(folder)["class_names"])


def load_shards(folder: Path) -> ShardIndex:
    """The index of a folder of shards.

    Raises: InputError if a shard is missing or has another size than when it was written.
    """
    manifest = read_manifest(folder)
    _check_sizes(folder, manifest)
    try:
        with np.load(folder / INDEX, allow_pickle=False) as saved:
            columns = {name: saved[name] for name in ("paths", "labels", "sizes", "digests", "places")}
    except Exception as error:  # a damaged zip raises whatever numpy, zipfile or zlib stumble over
        raise InputError(f"{folder / INDEX} cannot be read ({error}). Fetch it again from where it was.") from error
    paths = tuple(unpack(columns.pop("paths")))
    shards = tuple(shard["name"] for shard in manifest["shards"])
    return ShardIndex(folder, tuple(manifest["class_names"]), paths, shards=shards, **columns)


def _check_sizes(folder: Path, manifest: dict) -> None:
    for shard in manifest["shards"]:
        path = folder / shard["name"]
        found = path.stat().st_size if path.is_file() else None
        if found != shard["bytes"]:
            is_now = "is missing" if found is None else f"has {found:,} bytes instead of {shard['bytes']:,}"
            raise InputError(f"{path} {is_now}. Fetch it again from where it was, or run `lightning-sq data shard`.")


def save_index(folder: Path, index: ShardIndex) -> None:
    """Write the columns that `load_shards` reads."""
    columns = {"labels": index.labels, "sizes": index.sizes, "digests": index.digests, "places": index.places}
    with whole_file(folder / INDEX) as temporary, temporary.open("wb") as stream:
        np.savez(stream, paths=pack(index.paths), **columns)


def damaged_shards(folder: Path, progress: Progress | None = None) -> list[str]:
    """The shards that are missing, or whose SHA-256 is not the one that was noted when they were written."""
    shards, damaged = read_manifest(folder)["shards"], []

    def digest(shard: dict) -> str | None:
        path = folder / shard["name"]
        return sha256(path) if path.is_file() else None

    with ThreadPoolExecutor(usable_cores()) as pool:
        digests = pool.map(digest, shards)
        for done, (shard, found) in enumerate(zip(shards, digests, strict=True), start=1):
            if found != shard["sha256"]:
                damaged.append(shard["name"])
            if progress is not None:
                progress(done, len(shards))
    return damaged
