"""The UCI handwritten digits as a JPEG image folder: real scans, in the wheel, nothing downloaded.

`digits.npz` holds the 1,797 test scans of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI Machine
Learning Repository, 1998, CC BY 4.0, doi 10.24432/C50P49), the same that scikit-learn's `load_digits` gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_sq.data.image_folder import Content, write_image_folder

NUM_VALIDATION = 360
CONTENT = Content(
    "the UCI handwritten digits as JPEG files, by lightning-sq data digits\n", tuple("0123456789"), ".jpg"
)


def write_digits(folder: Path, *, overwrite: bool = False, image_size: int = 32) -> int:
    """Write `folder/{train,val}/<digit>/<number>.jpg`; whole or not at all.

    The scans are enlarged bicubically. The validation split is the last 360.

    Args:
        folder: See `write_image_folder`, as for the errors.
        overwrite: Replace what this wrote there before.
        image_size: Height and width of the JPEG files, in pixels.
    Returns: the number of images written.
    """
    return write_image_folder(folder, CONTENT, _images(image_size), overwrite=overwrite)


def read_scans() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(scans, digits): (1797, 8, 8) of 17 grey values, 0 is paper and 16 is ink; (1797,) of 0 to 9."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


def _images(image_size: int) -> Iterator[tuple[str, Image.Image]]:
    scans, digits = read_scans()
    pixels = (scans * (255 / 16)).round().astype(np.uint8)
    first_validation = len(pixels) - NUM_VALIDATION
    for number, (scan, digit) in enumerate(zip(pixels, digits.tolist(), strict=True)):
        split = "train" if number < first_validation else "val"
        image = Image.fromarray(scan).resize((image_size, image_size), Image.Resampling.BICUBIC)
        yield f"{split}/{digit}/{number:04d}.jpg", image.convert("RGB")
