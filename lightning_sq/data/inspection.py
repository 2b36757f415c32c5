"""Is this file an image, and the same one to both backends? Asked of every file once, before any pipeline sees it."""

from __future__ import annotations

import errno
import hashlib
import io
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_sq.errors import MENDABLE, InputError, one_line

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


MAX_PIXELS = 178_956_970
"""The largest image that is decoded, 512 MiB as RGB: what claims to be larger is taken for a decompression bomb."""

GREY_MODES = {"1", "L", "LA"}
DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
ORIENTATION = 0x0112  # the EXIF tag


class Look(NamedTuple):
    """What one look at a file tells.

    Args:
        height, width: As stored, before any EXIF rotation; 0 if it is left out.
        reason: Why it is left out; empty if both backends can read it.
        kinds: What is odd about it and yet no reason: "CMYK", "greyscale", "alpha", "EXIF-rotated", "PNG named .jpg".
        digest: 16 bytes of BLAKE2b over the file; zeros if it could not be read.
    """

    height: int
    width: int
    reason: str = ""
    kinds: tuple[str, ...] = ()
    digest: bytes = bytes(16)


class _Unreadable(Exception):
    """The reason why a file is no image to train on."""


def inspect_file(path: Path) -> Look:
    """Decodes the whole file once.

    Raises: InputError if the system cannot read the file just now, which says nothing of what is in it.
    """
    try:
        encoded = _read(path)
    except _Unreadable as error:
        return Look(0, 0, str(error))
    return inspect_bytes(encoded, path.suffix)


def digest_of(encoded: bytes) -> bytes:
    """16 bytes by which an image file is known: equal files are the same image."""
    return hashlib.blake2b(encoded, digest_size=16).digest()


def inspect_bytes(encoded: bytes, suffix: str) -> Look:
    """The same of a file's content; `suffix` is what its name promises."""
    from PIL import Image, UnidentifiedImageError

    digest = digest_of(encoded)
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            _check_alike(image)
            kinds = _kinds(image, suffix)
            image.load()
        return Look(image.height, image.width, "", kinds, digest)
    except MemoryError:
        raise
    except _Unreadable as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = "not an image" if encoded else "empty"
    except Image.DecompressionBombError:
        reason = f"more than {MAX_PIXELS:,} pixels"
    except Exception as error:  # PIL's readers raise whatever a damaged file makes them stumble over
        reason = one_line(error)
        reason = "truncated" if "truncated" in reason.lower() else reason
    return Look(0, 0, reason.replace("\0", " "), (), digest)


def _kinds(image: Image.Image, suffix: str) -> tuple[str, ...]:
    """What is odd about an opened image that both backends can read."""
    from PIL import Image

    kind = "JPEG" if image.format == "MPO" else image.format
    promised = Image.registered_extensions().get(suffix.lower())
    grey = image.mode in GREY_MODES
    alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
    found = {
        f"{kind} named {suffix}": promised != kind,
        "CMYK": image.mode == "CMYK",
        "greyscale": grey,
        "alpha": alpha,
        "EXIF-rotated": _is_rotated(image),
    }
    return tuple(name for name, is_so in found.items() if is_so)


def _is_rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # whatever damaged EXIF makes PIL stumble over; the pixels are whole all the same
        return False


def _read(path: Path) -> bytes:
    """The whole file, so that an OSError after this is the decoder's."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _Unreadable("not a regular file")
        return path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and path.is_symlink():
            raise _Unreadable("a broken link") from error
        if error.errno not in MENDABLE:
            raise
        raise InputError(f"{path} cannot be read ({error.strerror}). Mend its permissions, and start again.") from error


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
    if image.mode in DEEP_MODES or "16" in stored:
        raise _Unreadable(f"16 bit or deeper, a {kind} of {stored} pixels: convert it to JPEG, or to PNG of 8 bits")
    if stored not in ALIKE[kind]:
        raise _Unreadable(f"a {kind} of {stored} pixels: convert it to JPEG, or to PNG of 8 bits a channel")
    for name, (tag, safe) in SAFE_TIFF_TAGS.items() if kind == "TIFF" else ():
        found = image.tag_v2.get(tag, 1)
        if set(found if isinstance(found, tuple) else (found,)) - safe:
            raise _Unreadable(f"a TIFF of {name} {found}: convert it to JPEG or PNG")
