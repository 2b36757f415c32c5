"""scikit-learn's handwritten digits as a JPEG image folder: real scans, in the wheel, nothing downloaded."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_sq.errors import InputError

JPEG_QUALITY = 95
NUM_VALIDATION = 360
MARKER, MARKER_TEXT = "README.txt", "scikit-learn's handwritten digits as JPEG files, by lightning-sq data digits\n"
OURS = re.compile(rf"{re.escape(MARKER)}|(train|val)(/[0-9](/[0-9]{{4}}\.jpg)?)?")
"""Paths below the folder that this may have written."""


def write_digits(folder: Path, *, overwrite: bool = False, image_size: int = 32) -> int:
    """Write `folder/{train,val}/<digit>/<number>.jpg`; whole or not at all.

    The scans (Alpaydin and Kaynak, UCI 1998: 1,797 of 8x8 pixels and 17 grey values) are enlarged bicubically.
    The validation split is the last 360.

    Args:
        folder: Made by this; an existing one is kept unless `overwrite`, then replaced if this wrote all of it.
        image_size: Height and width of the JPEG files, in pixels.
    Returns: the number of images written.
    Raises: InputError if `folder` exists and is not to be overwritten, or holds anything else.
    """
    if folder.exists():
        _check_ours(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as room:
        new, old = Path(room) / "new", Path(room) / "old"
        count = _write(new, image_size)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    return count


def _check_ours(folder: Path, overwrite: bool) -> None:
    if not overwrite:
        raise InputError(f"{folder} exists already (add --overwrite to write it anew). Give another folder.")
    marker = folder / MARKER
    if not marker.is_file() or marker.read_bytes() != MARKER_TEXT.encode():
        raise InputError(f"{folder} exists already (it was not written by this command). Give another folder.")
    foreign = [path for path in sorted(folder.rglob("*")) if not OURS.fullmatch(path.relative_to(folder).as_posix())]
    if foreign:
        raise InputError(
            f"{folder} holds {foreign[0].relative_to(folder)}, which this command did not write. "
            "Move that elsewhere, or give another folder."
        )


def _write(folder: Path, image_size: int) -> int:
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = (digits.images * (255 / 16)).round().astype(np.uint8)
    first_validation = len(scans) - NUM_VALIDATION
    for number, (scan, digit) in enumerate(zip(scans, digits.target.tolist(), strict=True)):
        split = "train" if number < first_validation else "val"
        path = folder / split / str(digit) / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(scan).resize((image_size, image_size), Image.Resampling.BICUBIC)
        image.convert("RGB").save(path, quality=JPEG_QUALITY)
    (folder / MARKER).write_text(MARKER_TEXT)
    return len(scans)
