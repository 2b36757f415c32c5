"""The files of a release and their checksums; nothing here opens a model, so nothing heavy is imported.

model.safetensors   the tensors of the `PixelClassifier`
config.json         what to build, how it was trained, with which versions, and what was exported with it
README.md           the model card, in the Hub's format
golden.safetensors  `images` (uint8, N x C x H x W) and the `logits` (float32, N x classes) that they must give
results.json        the evaluation that the card's numbers are from, where there was one
model.onnx, model.pt2   the same function for other runtimes, where it was asked for
model.onnx.data     the weights of a model.onnx that is too large for one file
SHA256SUMS          a line for each of them
"""

from __future__ import annotations

import re
from pathlib import Path

from lightning_sq.errors import InputError
from lightning_sq.paths import sha256
from lightning_sq.run_files import JSON_FILE

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, SUMS_FILE = "model.safetensors", "config.json", "README.md", "SHA256SUMS"
GOLDEN_FILE, RESULTS_FILE = "golden.safetensors", JSON_FILE
ONNX_FILE, TORCH_EXPORT_FILE = "model.onnx", "model.pt2"
ONNX_WEIGHTS_FILE = f"{ONNX_FILE}.data"
"""Which torch writes where the two together would pass the limit of that format, 2 GiB."""
LIBRARY = "lightning_sq"
"""By which timm, the Hub and we know what is ours."""
NEEDED = (WEIGHTS_FILE, CONFIG_FILE)
"""What a model is loaded from; the other files are for people and for checks."""
DOWNLOADED = (CARD_FILE, GOLDEN_FILE, RESULTS_FILE, CONFIG_FILE, WEIGHTS_FILE)
"""What is brought into the cache, small files first."""
RELEASE_FILES = (*NEEDED, CARD_FILE, GOLDEN_FILE, RESULTS_FILE, ONNX_FILE, ONNX_WEIGHTS_FILE, TORCH_EXPORT_FILE)
"""Every file that a release may have beside its SHA256SUMS."""
LONGEST_SUMS = 64 * 1024
"""Bytes."""


def read_sums(folder: Path) -> dict[str, str]:
    """SHA256SUMS of a release folder: file name to digest. Raises: InputError if it is missing or names a path."""
    path = folder / SUMS_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} is not a release of lightning_sq: it has no {SUMS_FILE}. Make one with lightning-sq export."
        )
    _check_place(folder, SUMS_FILE)
    with path.open("rb") as stream:
        return parse_sums(stream.read(LONGEST_SUMS).decode(errors="replace"), source=str(path))


def parse_sums(text: str, *, source: str) -> dict[str, str]:
    """Lines as sha256sum writes them; one that is none is passed over.

    Raises: InputError for a name that is a path, which could lead out of the release.
    """
    lines = re.findall(r"^([0-9a-fA-F]{64}) [ *](.+?)\r?$", text, re.MULTILINE)
    if climbing := next((name for _, name in lines if re.search(r"[/\\]|^\.\.?$", name)), None):
        raise InputError(f"{source} names {climbing!r}, which is a path and no file of a release. Do not use it.")
    return {name: digest.lower() for digest, name in lines}


def check_file(folder: Path, name: str, listed: dict[str, str]) -> None:
    """Raises: InputError unless `name` is a file in `folder` with the digest that is listed."""
    path = folder / name
    if not path.is_file():
        what = "is no file" if path.exists() or path.is_symlink() else "is missing"
        raise InputError(f"{path} {what}. Download or export the release again.")
    _check_place(folder, name)
    if listed.get(name) != sha256(path):
        raise InputError(f"{path} is not the file that {SUMS_FILE} names: altered or truncated. Get the release again.")


def check_needed(folder: Path, listed: dict[str, str]) -> None:
    """Raises: InputError as `check_file` does, for one of the files that a model is loaded from."""
    for name in NEEDED:
        check_file(folder, name, listed)


def _check_place(folder: Path, name: str) -> None:
    """A link may lead to another file of the folder, or to the blobs of a Hugging Face cache, and nowhere else."""
    path = folder / name
    if not path.is_symlink():
        return
    home = folder.resolve()
    blobs = [home.parent.parent / "blobs"] if home.parent.name == "snapshots" else []
    if path.resolve().parent not in (home, *blobs):
        raise InputError(f"{path} is a link that leads out of the release. Put the file itself there (cp -L).")
