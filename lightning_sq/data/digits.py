"""scikit-learn's handwritten digits as a JPEG image folder: real scans, in the wheel, nothing downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_sq.errors import InputError

JPEG_QUALITY = 95
NUM_VALIDATION = 360
MARKER = "README.txt"


def write_digits(folder: Path, *, overwrite: bool = False, image_size: int = 32) -> int:
    """Write `folder/{train,val}/<digit>/<number>.jpg`; whole or not at all.

    The scans (Alpaydin and Kaynak, UCI 1998: 1,797 of 8x8 pixels and 17 grey values) are enlarged bicubically.
    The validation split is the last 360.

    Args:
        folder: Made by this; an existing one is kept unless `overwrite`, and then only given up if this wrote it.
        image_size: Height and width of the JPEG files, in pixels.
    Returns: the number of images written.
    Raises: InputError if `folder` exists and is not to be overwritten.
    """
    from sklearn.datasets import load_digits

    if folder.exists() and not (overwrite and (folder / MARKER).is_file()):
        hint = "it was not written by this command" if overwrite else "add --overwrite to write it anew"
        raise InputError(f"{folder} exists already ({hint}). Give another folder.")
    digits = load_digits()
    scans = (digits.images * (255 / 16)).round().astype(np.uint8)
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    first_validation = len(scans) - NUM_VALIDATION
    for number, (scan, digit) in enumerate(zip(scans, digits.target.tolist(), strict=True)):
        split = "train" if number < first_validation else "val"
        path = partial / split / str(digit) / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(scan).resize((image_size, image_size), Image.Resampling.BICUBIC)
        image.convert("RGB").save(path, quality=JPEG_QUALITY)
    (partial / MARKER).write_text("scikit-learn's handwritten digits as JPEG files, by lightning-sq data digits\n")
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)
    return len(scans)
