"""Is this file an image, and the same one to both backends? Asked of every file once, before any pipeline sees it."""

from __future__ import annotations

import errno
import io
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_sq.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

ALIKE = {
    "PNG": {"1", "L", "L;2", "L;4", "LA", "P", "P;1", "P;2", "P;4", "RGB", "RGBA"},
    "BMP": {"1", "L", "P", "P;4", "BGR", "BGRX", "BGRA"},
    "PPM": {"1;I", "L", "RGB"},
    "TIFF": {"L", "RGB", "RGBA", "RGBX"},
}
"""Stored pixels, by PIL's names, that PIL and DALI 2.4 turn into the same RGB; of JPEG and WebP all are.

Left out, as tried: 16 bits and float (scaled by one, clipped by the other), palettes and grey with alpha in TIFF.
"""
SAFE_TIFF_TAGS = {
    "orientation": (274, {1}),  # PIL turns the image, DALI does not
    "planar configuration": (284, {1}),
    "sample format": (339, {1}),
    "fill order": (266, {1}),
    "compression": (259, {1, 5, 7, 8, 32773, 32946}),  # none, LZW, JPEG, deflate, PackBits, older deflate
}


class _Unreadable(Exception):
    """The reason why a file is no image to train on."""


def inspect_image(path: Path) -> tuple[tuple[int, int], str]:
    """((height, width), reason): decodes the whole file once; `reason` is empty if both backends can read it.

    Raises: InputError if the system cannot read the file just now, which says nothing of what is in it.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        encoded = _read(path)
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
            _check_alike(image)
            image.load()
        return (height, width), ""
    except (InputError, MemoryError):
        raise
    except _Unreadable as error:
        return (0, 0), str(error)
    except UnidentifiedImageError:
        return (0, 0), "not an image" if encoded else "empty"
    except Image.DecompressionBombError:
        return (0, 0), f"more than {2 * Image.MAX_IMAGE_PIXELS} pixels"
    except Exception as error:  # PIL's readers raise whatever a damaged file makes them stumble over
        reason = " ".join(str(error).split()) or type(error).__name__
        return (0, 0), "truncated" if "truncated" in reason.lower() else reason


def _read(path: Path) -> bytes:
    """The whole file, so that an OSError after this is the decoder's."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _Unreadable("not a regular file")
        return path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and path.is_symlink():
            raise _Unreadable("a broken link") from error
        raise InputError(
            f"{path} cannot be read ({error.strerror}). Mend its permissions or the file system, and start again."
        ) from error


def _check_alike(image: Image.Image) -> None:
    """Raises: _Unreadable if one of the backends cannot decode the opened `image`, or decodes it to other pixels."""
    kind = image.format or "file without a format"
    if kind in ("JPEG", "MPO", "WEBP"):  # MPO: a JPEG with a second picture behind the first, as telephones write it
        return
    if kind not in ALIKE:
        raise _Unreadable(f"a{'n' * (kind[0] in 'AEIO')} {kind}: convert it to JPEG or PNG")
    codec, _, _, arguments = image.tile[0]
    stored = arguments if isinstance(arguments, str) else arguments[0]
    if kind == "PPM" and codec != "raw":
        raise _Unreadable("a PPM written as text, or with another maximum than 255: convert it to JPEG or PNG")
    if stored not in ALIKE[kind]:
        raise _Unreadable(f"a {kind} of {stored} pixels: convert it to JPEG, or to PNG of 8 bits a channel")
    for name, (tag, safe) in SAFE_TIFF_TAGS.items() if kind == "TIFF" else ():
        found = image.tag_v2.get(tag, 1)
        if set(found if isinstance(found, tuple) else (found,)) - safe:
            raise _Unreadable(f"a TIFF of {name} {found}: convert it to JPEG or PNG")
