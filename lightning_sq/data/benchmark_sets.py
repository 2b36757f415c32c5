"""MNIST and CIFAR-10 as image folders of PNG files, from what torchvision downloads or from files that are at hand."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lightning_sq.data.image_folder import Content, check_replaceable, write_image_folder
from lightning_sq.errors import InputError
from lightning_sq.output_lock import one_at_a_time
from lightning_sq.paths import cache_folder
from lightning_sq.types import Progress
from lightning_sq.words import counted

BY_OPTION = "by --from (reproduce: by --data-dir)"
"""How a person names the files."""
HELD_OUT = 5000
"""Training images that take the test images' place with `tuning`."""
DIGIT, PHOTOGRAPH = 28, 32
"""Pixels along a side."""
CLASS_NAMES = {
    "MNIST": tuple("0123456789"),
    "CIFAR10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""In the order of the original labels."""


class _File(NamedTuple):
    """An image of a zip file, as it is stored in there."""

    name: str
    content: bytes


class _Part(NamedTuple):
    images: Sequence[np.ndarray | _File]  # (H, W[, 3]) uint8 each
    labels: list[int]


def write_mnist(
    folder: Path,
    *,
    source: Path | None = None,
    tuning: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """MNIST (LeCun et al. 1998) as `folder/{train,val}/<digit>/<number>.png`, 28 x 28, grey; val is the test set.

    Args:
        folder: See `write_image_folder`, as for the errors.
        source: A folder with the four original files, gzipped or not, anywhere below it; None downloads them.
        tuning: Leave the test images out: val is the last 5,000 training images, train the others.
        overwrite: Replace what this wrote there before.
        progress: Called with (images written, images to write).
    Returns: the number of images written.
    Raises: InputError if the files are not all there, or not what they should be.
    """
    return _write(folder, "MNIST", source, _mnist, tuning=tuning, overwrite=overwrite, progress=progress)


def write_cifar10(
    folder: Path,
    *,
    source: Path | None = None,
    tuning: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """CIFAR-10 (Krizhevsky 2009) as `folder/{train,val}/<class>/<number>.png`, 32 x 32; arguments as `write_mnist`.

    `source` is a folder with the original `cifar-10-batches-py`, or a zip file of images in `train/<class>/` and
    `test/<class>/`, which are written as PNG with the pixels that they decode to.
    """
    return _write(folder, "CIFAR10", source, _cifar10, tuning=tuning, overwrite=overwrite, progress=progress)


def _write(
    folder: Path,
    name: str,
    source: Path | None,
    read: Callable[[Path, bool], _Part],
    *,
    tuning: bool,
    overwrite: bool,
    progress: Progress | None,
) -> int:
    marker = f"{name} as PNG files{', its last training images as val' * tuning}, by lightning-sq data\n"
    content = Content(marker, CLASS_NAMES[name], ".png")
    check_replaceable(folder, content, overwrite=overwrite)  # before anything is downloaded
    source = _downloaded(name) if source is None else source
    parts = _tuning_parts(source, read(source, True)) if tuning else _parts(source, read)
    total = sum(len(part.labels) for part in parts.values())

    def images() -> Iterator[tuple[str, Image.Image]]:
        done = 0
        for split, part in parts.items():
            for number, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
                yield f"{split}/{content.class_names[label]}/{number:05d}.png", _image(image, source)
                done += 1
                if progress is not None:
                    progress(done, total)

    return write_image_folder(folder, content, images(), overwrite=overwrite)


def _parts(source: Path, read: Callable[[Path, bool], _Part]) -> dict[str, _Part]:
    parts = {"train": read(source, True), "val": read(source, False)}
    if not all(part.labels for part in parts.values()):
        raise InputError(f"{source} has no training images, or no test images. Download it again.")
    return parts


def _tuning_parts(source: Path, train: _Part) -> dict[str, _Part]:
    cut = len(train.labels) - HELD_OUT
    if cut < 1:
        raise InputError(
            f"{source} holds {counted(len(train.labels), 'training image')}, and {HELD_OUT:,} are held out for tuning. "
            f"Leave --tuning out (reproduce: add --no-tuning), or give other files {BY_OPTION}."
        )
    return {
        "train": _Part(train.images[:cut], train.labels[:cut]),
        "val": _Part(train.images[cut:], train.labels[cut:]),
    }


def _image(image: np.ndarray | _File, source: Path) -> Image.Image:
    if not isinstance(image, _File):
        return Image.fromarray(image)
    try:
        found = Image.open(io.BytesIO(image.content)).convert("RGB")
    except Exception as error:  # PIL's readers raise whatever a damaged file makes them stumble over
        raise InputError(f"{image.name} in {source} is no readable image. Mend or remove it.") from error
    if found.size != (PHOTOGRAPH, PHOTOGRAPH):
        raise InputError(
            f"{image.name} in {source} is {found.height} x {found.width} pixels; CIFAR-10's are "
            f"{PHOTOGRAPH} x {PHOTOGRAPH}. Give another zip file {BY_OPTION}."
        )
    return found


def _downloaded(name: str) -> Path:
    from torchvision import datasets

    root = cache_folder() / "downloads"
    try:
        with one_at_a_time(root / f".{name}.lock", what=f"downloads {name}"):
            getattr(datasets, name)(root, download=True)
    except Exception as error:  # of the network, of a mirror, of a checksum, or of files that an earlier one cut
        raise InputError(
            f"{name} could not be downloaded ({type(error).__name__}). If an earlier download was stopped, remove "
            f"{root} and try again, or give a folder that holds its files {BY_OPTION}."
        ) from error
    return root


def _mnist(source: Path, train: bool) -> _Part:
    prefix = "train" if train else "t10k"
    images = _idx(source, f"{prefix}-images-idx3-ubyte")
    labels = _idx(source, f"{prefix}-labels-idx1-ubyte")
    sizes = images.shape[1:], labels.shape
    if sizes != ((DIGIT, DIGIT), images.shape[:1]) or labels.max(initial=0) > 9:
        raise InputError(f"{source} holds {prefix} files of MNIST that do not belong together. Download them again.")
    return _Part(images, labels.tolist())


def _idx(source: Path, name: str) -> np.ndarray:
    """The array of unsigned bytes in an IDX file: two zeros, the type 8, the number of dimensions, and their sizes."""
    found = [path for path in sorted(source.rglob(f"{name}*")) if path.name in (name, f"{name}.gz") and path.is_file()]
    if not found:
        raise InputError(f"{source} holds no {name}.gz. Give the folder of MNIST's four files {BY_OPTION}.")
    if others := sorted({path.parent for path in found} - {found[0].parent}):
        raise InputError(
            f"{source} holds {name} in {found[0].parent} and in {others[0]}. Give the one of them that is MNIST's "
            f"{BY_OPTION}."
        )
    try:
        content = found[0].read_bytes()
        content = gzip.decompress(content) if found[0].suffix == ".gz" else content
        if content[:3] != b"\0\0\x08":
            raise ValueError("no IDX file of bytes")
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"{found[0]} is damaged ({error}). Download it again.") from error


def _cifar10(source: Path, train: bool) -> _Part:
    if source.is_file():
        return _zipped(source, "train" if train else "test")
    from torchvision.datasets import CIFAR10

    try:
        found = CIFAR10(source, train=train)  # looks at the files' checksums before it unpickles them
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{source} holds no whole cifar-10-batches-py. Give its parent folder, or a zip file of train/<class>/ and "
            f"test/<class>/, {BY_OPTION}."
        ) from error
    return _Part(found.data, found.targets)


def _zipped(path: Path, folder: str) -> _Part:
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is no zip file. If it is CIFAR-10's own archive, unpack it, and give the folder that then holds "
            f"cifar-10-batches-py {BY_OPTION}; else download it again."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in sorted(archive.namelist()) if _in_class(name, folder)]
            files = [archive.read(name) for name in names]
    except Exception as error:  # of a damaged one zipfile and zlib raise whatever they stumble over
        raise InputError(f"{path} is no readable zip file ({error}). Download it again.") from error
    if not names:
        raise InputError(f"{path} holds no images in {folder}/<class>/. Give another zip file {BY_OPTION}.")
    classes = [name.split("/")[-2] for name in names]
    if odd := sorted(set(classes) ^ set(CLASS_NAMES["CIFAR10"])):
        what = "has a class" if odd[0] in classes else "lacks the class"
        raise InputError(f"{path} {what} {odd[0]!r} in {folder}/. Name the folders as CIFAR-10's classes.")
    order = np.random.default_rng(0).permutation(len(files))  # by class as they are, and the last are held out
    labels = [CLASS_NAMES["CIFAR10"].index(name) for name in classes]
    return _Part([_File(names[i], files[i]) for i in order], [labels[i] for i in order])


def _in_class(name: str, folder: str) -> bool:
    parts = name.split("/")
    hidden = parts[-1].startswith(".")  # beside each file of a zip made on macOS
    suffix = Path(name).suffix.lower()
    return len(parts) >= 3 and parts[-3] == folder and not hidden and suffix in (".jpg", ".jpeg", ".png")
