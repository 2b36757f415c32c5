"""Writing a data set as an image folder: whole or not at all, and never over what somebody else put there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_sq.errors import InputError
from lightning_sq.paths import whole_folder

if TYPE_CHECKING:
    from PIL.Image import Image

MARKER = "README.txt"
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Content:
    """What a folder holds, and by which it is known again.

    Args:
        marker: One line that says it.
        class_names: The folders in train/ and val/.
        suffix: ".jpg" or ".png", which is the format.
    """

    marker: str
    class_names: tuple[str, ...]
    suffix: str

    def may_have(self, path: str) -> bool:
        """Whether `path`, relative to the folder, is one that `write_image_folder` writes or makes."""
        names = "|".join(map(re.escape, self.class_names))
        image = rf"(train|val)(/({names})(/[0-9]+{re.escape(self.suffix)})?)?"
        return path == MARKER or re.fullmatch(image, path) is not None


def write_image_folder(
    folder: Path, content: Content, images: Iterable[tuple[str, Image]], *, overwrite: bool = False
) -> int:
    """Write `folder/{train,val}/<class>/<number>.{jpg,png}`.

    Args:
        folder: Made by this; an existing one is kept unless `overwrite`, then replaced if this wrote all of it.
        content: Of the folder.
        images: (path below `folder`, image).
    Returns: the number of images written.
    Raises: InputError as `check_replaceable` does, or if `folder` cannot be written.
    """
    try:
        with whole_folder(folder, partial(check_replaceable, folder, content, overwrite=overwrite)) as new:
            count = _write(new, images)
            (new / MARKER).write_text(content.marker)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}). Give another folder.") from error
    return count


def check_replaceable(folder: Path, content: Content, *, overwrite: bool) -> None:
    """Raises: InputError if `folder` exists and is not to be overwritten, or holds what this did not write."""
    if not (folder.exists() or folder.is_symlink()):  # or a link to nowhere
        return
    if not overwrite:
        raise InputError(f"{folder} exists already (add --overwrite to write it anew). Give another folder.")
    if folder.is_symlink():
        raise InputError(f"{folder} is a link, and would be replaced by a folder. Give {folder.resolve()}.")
    found = folder / MARKER
    if not found.is_file() or found.read_bytes() != content.marker.encode():
        raise InputError(f"{folder} exists already (it was not written by this command). Give another folder.")
    there = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")))
    if foreign := next((path for path in there if not content.may_have(path)), None):
        raise InputError(
            f"{folder} holds {foreign}, which this command did not write. Move that elsewhere, or give another folder."
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
