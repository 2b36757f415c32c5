"""Where the project keeps what can be made again, and how it writes files."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """$LIGHTNING_SQ_CACHE, else the user's cache folder (XDG)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_sq"
    return Path(os.environ.get("LIGHTNING_SQ_CACHE") or default)


def expanded(path: str | Path) -> Path:
    """`path` with ~ and ~user replaced by their folder, as a shell does; one that there is not stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: what the block writes there becomes `path` at once, or nothing if it fails.

    Makes the folder if need be. The name is like no other's, be it of another machine that shares the file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with errors_named(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """An OSError of the block that says no name, as that of a full disk, says that of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that nobody ever sees half of it; makes the folder if need be."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


def nearest_existing(path: Path) -> Path:
    """`path`, or the folder above it that is there and in which it would be made."""
    return next(there for there in (path, *path.absolute().parents) if there.exists())


@contextmanager
def whole_folder(folder: Path, check: Callable[[], object]) -> Iterator[Path]:
    """A new folder beside `folder`: what the block writes there takes its place at once, or nothing if it fails.

    Args:
        folder: The place; the folder above it is made if need be.
        check: Raises if what is there may not be replaced. It is asked before the block, and after it once more, since
            meanwhile somebody may have put something there.
    """
    check()
    folder.parent.mkdir(parents=True, exist_ok=True)
    room = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    with errors_named(folder), room as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        yield new
        check()
        replace_folder(new, folder, Path(temporary) / "old")


def replace_folder(new: Path, folder: Path, old: Path) -> None:
    """Rename `new` to `folder`; what was there becomes `old`, or stays if that cannot be."""
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:  # one that asks to end too
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
