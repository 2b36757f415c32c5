"""Which images there are, where their bytes lie, and what is known of them without decoding any."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_sq.words import first_of


class UnreadableImage(NamedTuple):
    """A file that looks like an image by its name and is none."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageIndex:
    """The readable images of one split, in a fixed order: an image's position here is its identity everywhere.

    Args:
        folder: The split's folder; `paths` are relative to it.
        class_names: The subfolders' names, sorted; a label is a position in this tuple.
        paths: One path for each image.
        labels: (N,) int64.
        sizes: (N, 2) int32, height and width as stored (before any EXIF rotation).
        digests: (N, 2) uint64, of each file's bytes: equal files are the same image.
        kinds: What is odd about images that can be read all the same -> their paths.
        unreadable: The files left out, with the reason.
    """

    folder: Path
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable: tuple[UnreadableImage, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def class_counts(self) -> dict[str, int]:
        """Each class, in order, and how many readable images it has."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    @property
    def empty_classes(self) -> tuple[str, ...]:
        """The classes without a readable image."""
        return tuple(name for name, count in self.class_counts.items() if not count)

    @property
    def named_unreadable(self) -> str:
        """The first files that were left out, with the reason, for people."""
        return first_of([f"{bad.path} ({bad.reason})" for bad in self.unreadable])

    def fingerprint(self) -> str:
        """sha256 of the names, classes and sizes of all images, in their order, wherever they lie."""
        digest = hashlib.sha256("\n".join((*self.class_names, *self.paths)).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.tobytes())
        digest.update(self.sizes.tobytes())
        return digest.hexdigest()

    def take(self, positions: np.ndarray) -> ImageIndex:
        """The images at `positions` only, in that order."""
        return replace(
            self,
            paths=tuple(self.paths[i] for i in positions.tolist()),
            labels=self.labels[positions],
            sizes=self.sizes[positions],
            digests=self.digests[positions],
        )

    def where(self, i: int) -> str:
        """The file of image `i`, for people."""
        return str(self.folder / self.paths[i])

    @property
    def remedy(self) -> str:
        """What to do if an image cannot be decoded any more, for people who resume a training."""
        return (
            "Mend it, and resume; or remove it, or have it left out by "
            f"`lightning-sq data check {self.folder} --again`, and resume with --on_mismatch restart_epoch."
        )

    def read(self, i: int) -> np.ndarray:
        """The encoded image `i`, (bytes,) uint8. Raises: OSError."""
        return np.frombuffer((self.folder / self.paths[i]).read_bytes(), np.uint8)  # np.fromfile hides a failed read
