"""scikit-learn's handwritten digits as a JPEG image folder: real scans, in the wheel, nothing downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_sq.data.image_folder import Content, write_image_folder

NUM_VALIDATION = 360
CONTENT = Content(
    "scikit-learn's handwritten digits as JPEG files, by lightning-sq data digits\n", tuple("0123456789"), ".jpg"
)


def write_digits(folder: Path, *, overwrite: bool = False, image_size: int = 32) -> int:
    """Write `folder/{train,val}/<digit>/<number>.jpg`; whole or not at all.

    The scans (Alpaydin and Kaynak, UCI 1998: 1,797 of 8x8 pixels and 17 grey values) are enlarged bicubically.
    The validation split is the last 360.

    Args:
        folder: See `write_image_folder`, as for the errors.
        overwrite: Replace what this wrote there before.
        image_size: Height and width of the JPEG files, in pixels.
    Returns: the number of images written.
    """
    return write_image_folder(folder, CONTENT, _images(image_size), overwrite=overwrite)


def _images(image_size: int) -> Iterator[tuple[str, Image.Image]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = (digits.images * (255 / 16)).round().astype(np.uint8)
    first_validation = len(scans) - NUM_VALIDATION
    for number, (scan, digit) in enumerate(zip(scans, digits.target.tolist(), strict=True)):
        split = "train" if number < first_validation else "val"
        image = Image.fromarray(scan).resize((image_size, image_size), Image.Resampling.BICUBIC)
        yield f"{split}/{digit}/{number:04d}.jpg", image.convert("RGB")
