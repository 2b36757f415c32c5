"""Checkpoint files that are whole or not there, and that say themselves whether they are what was written.

The sha256 of the file stands in the comment that every zip archive has room for, so it cannot be separated from the
file, and one rename puts both in place. torch reads the file as it reads any other.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

import torch

from lightning_sq.paths import whole_file

PREFIX = b"sha256:"
LENGTH = len(PREFIX) + 64
BLOCK = 1 << 22


class _Hashing:
    """A stream that knows the sha256 of what was written to it but for the last two bytes, the comment's length."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self._held = b""

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        taken = self._held + bytes(data[-2:]) if len(data) < 2 else bytes(data[-2:])
        self.digest.update(self._held if len(data) >= 2 else taken[:-2])
        self.digest.update(data[:-2])
        self._held = taken[-2:]
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def write_checkpoint(
    content: dict[str, Any], path: Path, *, before_rename: Callable[[Path], None] | None = None
) -> None:
    """Write `content` to a temporary name, to the disk itself, and only then to `path`.

    Args:
        content: What torch can save.
        path: Its folder is made if need be.
        before_rename: Called with `path` once the new file is safe, to put away the old one.
    Raises: OSError, with `path` as it was, if the disk is full or cannot be written.
    """
    with whole_file(path) as temporary:
        with temporary.open("w+b") as stream:
            hashing = _Hashing(stream)
            _save(content, hashing)
            comment = PREFIX + hashing.digest.hexdigest().encode()
            stream.seek(-2, os.SEEK_END)
            stream.write(len(comment).to_bytes(2, "little") + comment)
            stream.flush()
            os.fsync(stream.fileno())
        if before_rename is not None and path.exists():
            before_rename(path)
    _sync_folder(path.parent)


def _save(content: dict[str, Any], stream: _Hashing) -> None:
    try:
        torch.save(content, stream)
    except RuntimeError as error:  # what torch makes of a disk that is full
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _sync_folder(folder: Path) -> None:
    """The rename itself has to reach the disk. Some file systems, of Windows or over a network, know that of no folder
    and say EINVAL: the file is written and in its place."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(number)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is what was written, by its sha256; one without, Lightning's own, by the zip's CRCs."""
    by_hash = _fits_its_hash(path)
    if by_hash is not None:
        return by_hash
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, OSError, EOFError):
        return False


def _fits_its_hash(path: Path) -> bool | None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - LENGTH))
        comment = stream.read()
        if not comment.startswith(PREFIX):
            return False if PREFIX in comment else None  # its end is missing
        stream.seek(0)
        digest, left = hashlib.sha256(), size - LENGTH - 2
        while left > 0 and (block := stream.read(min(BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest().encode() == comment.removeprefix(PREFIX)


def keep_before(number: int) -> Callable[[Path], None]:
    """What moves `last.ckpt` to `last-1.ckpt`, that one to `last-2.ckpt`, so that `number` stay with the new one."""

    def move(path: Path) -> None:
        for age in range(number - 1, 0, -1):
            older = path.with_name(f"{path.stem}-{age}{path.suffix}")
            newer = path.with_name(f"{path.stem}-{age - 1}{path.suffix}") if age > 1 else path
            if newer.exists():
                newer.replace(older)

    return move
