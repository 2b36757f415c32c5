"""Writing a data set as an image folder: whole or not at all, and never over what somebody else put there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_sq.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MARKER = "README.txt"
CLASS_NAME = re.compile(r"[a-z0-9_]+")
OURS = re.compile(rf"{re.escape(MARKER)}|(train|val)(/{CLASS_NAME.pattern}(/[0-9]+\.(jpg|png))?)?")
"""Paths below the folder that this may have written."""
JPEG_QUALITY = 95


def write_image_folder(
    folder: Path, images: Iterable[tuple[str, Image]], *, marker: str, overwrite: bool = False
) -> int:
    """Write `folder/{train,val}/<class>/<number>.{jpg,png}`.

    Args:
        folder: Made by this; an existing one is kept unless `overwrite`, then replaced if this wrote all of it.
        images: (path below `folder`, image); its suffix says the format.
        marker: One line that says what the folder holds; by it the folder is known again.
    Returns: the number of images written.
    Raises: InputError as `check_replaceable` does, or if `folder` cannot be written.
    """
    check_replaceable(folder, marker, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as room:
            new = Path(room) / "new"
            new.mkdir()
            count = _write(new, images)
            (new / MARKER).write_text(marker)
            _put(new, folder, Path(room) / "old")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}). Give another folder.") from error
    return count


def _put(new: Path, folder: Path, old: Path) -> None:
    """Rename `new` to `folder`; what was there becomes `old`, or stays if that cannot be."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def check_replaceable(folder: Path, marker: str, *, overwrite: bool) -> None:
    """Raises: InputError if `folder` exists and is not to be overwritten, or holds what this did not write."""
    if not (folder.exists() or folder.is_symlink()):  # or a link to nowhere
        return
    if not overwrite:
        raise InputError(f"{folder} exists already (add --overwrite to write it anew). Give another folder.")
    found = folder / MARKER
    if not found.is_file() or found.read_bytes() != marker.encode():
        raise InputError(f"{folder} exists already (it was not written by this command). Give another folder.")
    foreign = [path for path in sorted(folder.rglob("*")) if not OURS.fullmatch(path.relative_to(folder).as_posix())]
    if foreign:
        raise InputError(
            f"{folder} holds {foreign[0].relative_to(folder)}, which this command did not write. "
            "Move that elsewhere, or give another folder."
        )


def _write(folder: Path, images: Iterable[tuple[str, Image]]) -> int:
    made, count = set(), 0
    for name, image in images:
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(parents=True)
            made.add(path.parent)
        image.save(path, **({"quality": JPEG_QUALITY} if path.suffix == ".jpg" else {}))
        count += 1
    return count
