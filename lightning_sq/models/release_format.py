"""A release: the folder of model.safetensors, config.json, README.md and SHA256SUMS in which others get the weights."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from lightning_sq.errors import InputError
from lightning_sq.models.build import ModelConfig
from lightning_sq.models.checkpoint_format import FORMAT_VERSION, TrainedModel, versions

LIBRARY = "lightning_sq"
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, SUMS_FILE = "model.safetensors", "config.json", "README.md", "SHA256SUMS"


def write_release(folder: Path, trained: TrainedModel, card: str, *, overwrite: bool = False) -> None:
    """Write the four files of a release, whole or not at all.

    Raises: InputError if `folder` is there already and is not a release, or is one and `overwrite` is not set.
    """
    if folder.exists() or folder.is_symlink():
        _check_replaceable(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        _write_files(new, trained, card)
        if folder.exists():
            folder.rename(Path(temporary) / "old")  # removed with the temporary folder
        new.rename(folder)


def _write_files(folder: Path, trained: TrainedModel, card: str) -> None:
    save_file({key: value.contiguous() for key, value in trained.state.items()}, folder / WEIGHTS_FILE)
    description = {
        "format_version": FORMAT_VERSION,
        "library_name": LIBRARY,
        "model": trained.config.to_dict(),
        "training": trained.training,
        "exported_with": versions(),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
    (folder / CARD_FILE).write_text(card)
    names = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)
    (folder / SUMS_FILE).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def _check_replaceable(folder: Path, *, overwrite: bool) -> None:
    """Only what `write_release` wrote may be removed: its config.json says whose it is, and nothing else lies there."""
    if not overwrite:
        raise InputError(f"{folder} exists already; add --overwrite to replace a release. Give another folder.")
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder} is not a folder that a release was written to. Give another folder.")
    try:
        ours = json.loads((folder / CONFIG_FILE).read_text()).get("library_name") == LIBRARY
    except (OSError, ValueError, AttributeError):
        ours = False
    foreign = sorted({path.name for path in folder.iterdir()} - {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, SUMS_FILE})
    if not ours or foreign:
        why = f"holds {foreign[0]}, which no release has" if foreign else f"has no {CONFIG_FILE} of lightning_sq"
        raise InputError(f"{folder} exists already and is not a release: it {why}. Give another folder.")


def read_release(folder: Path) -> TrainedModel:
    """The model in a release folder, each file first held against SHA256SUMS.

    Raises: InputError if a file is missing, altered, or does not say what it should.
    """
    _check_sums(folder)
    try:
        description = json.loads((folder / CONFIG_FILE).read_text())
        config = ModelConfig.from_dict(description["model"])
        state = load_file(folder / WEIGHTS_FILE)
    except InputError:
        raise
    except Exception as error:  # the sums agree, so this was released broken: say which folder, not which line
        raise InputError(f"{folder} is not a readable release ({type(error).__name__}). Export it again.") from error
    return TrainedModel(config, state, description.get("training", {}))


def _check_sums(folder: Path) -> None:
    sums = folder / SUMS_FILE
    if not sums.is_file():
        raise InputError(
            f"{folder} is not a release of lightning_sq: it has no {SUMS_FILE}. Make one with lightning-sq export."
        )
    words = (line.split(maxsplit=1) for line in sums.read_text(errors="replace").splitlines())
    listed = {pair[1].lstrip("*"): pair[0] for pair in words if len(pair) == 2}  # sha256sum writes *NAME for binary
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing. Download or export the release again.")
        if listed.get(name) != sha256(path):
            raise InputError(
                f"{path} is not the file that {SUMS_FILE} names: altered or truncated. Get the release again."
            )


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
