"""From a decoded window to the network's square, on the CPU: bilinear with antialias, the same for every backend."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from lightning_sq.data.crop import Crop


def cut_square(window: np.ndarray, crop: Crop, image_size: int, out: np.ndarray) -> None:
    """Resize, flip and scale one window, into `out`.

    A whole window goes through torch's kernel for 8-bit pixels, several times as fast as DALI's on the CPU and PIL's,
    with which it agrees to a step or two of 255; a box that begins between two pixels goes through PIL's.

    Args:
        window: (height, width, C) uint8, what `crop` cuts out of the stored image.
        crop: The box and the flip; its window has been cut already.
        image_size: S, in pixels.
        out: (C, S, S) float32, filled with values in [0, 1].
    """
    size = (image_size, image_size)
    if (crop.box_top, crop.box_left, crop.box_bottom, crop.box_right) == (0, 0, crop.height, crop.width):
        pixels = torch.from_numpy(window).permute(2, 0, 1)[None]
        square = interpolate(pixels, size, mode="bilinear", antialias=True)[0].numpy()
    else:
        picture = Image.fromarray(window[:, :, 0] if window.shape[2] == 1 else window)
        box = crop.box_left, crop.box_top, crop.box_right, crop.box_bottom
        resized = np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box))
        square = resized.reshape(*size, -1).transpose(2, 0, 1)
    # numpy, for it starts no threads of its own inside a loader's
    np.divide(square[:, :, ::-1] if crop.flip else square, np.float32(255), out=out)
