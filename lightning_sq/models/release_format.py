"""Writes and reads the folder of a release; `release_files` lists what lies in it. Nothing in it is trusted or run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from lightning_sq.errors import InputError
from lightning_sq.models.build import ModelConfig
from lightning_sq.models.checkpoint_format import FORMAT_VERSION, TrainedModel, versions
from lightning_sq.paths import sha256, whole_folder
from lightning_sq.release_files import (
    CARD_FILE,
    CONFIG_FILE,
    LIBRARY,
    RELEASE_FILES,
    SUMS_FILE,
    WEIGHTS_FILE,
    check_needed,
    read_sums,
)


def write_release(
    folder: Path,
    trained: TrainedModel,
    card: str,
    *,
    overwrite: bool = False,
    beside: Path | None = None,
    more: dict[str, Any] | None = None,
    check: Callable[[Path], object] | None = None,
) -> None:
    """Write the files of a release, whole or not at all.

    Args:
        folder: Its place.
        trained: The model.
        card: README.md.
        overwrite: Replace a release that is there.
        beside: A folder whose files are copied into the release.
        more: For config.json.
        check: Looks at the finished folder, which goes into its place only if no error is raised.
    Raises: InputError if `folder` is there already and is not a release, or is one and `overwrite` is not set.
    """
    with whole_folder(folder, partial(check_replaceable, folder, overwrite=overwrite)) as new:
        for path in beside.iterdir() if beside else ():
            shutil.copyfile(path, new / path.name)
        _write_files(new, trained, card, more or {})
        _write_sums(new)
        if check is not None:
            check(new)


def _write_files(folder: Path, trained: TrainedModel, card: str, more: dict[str, Any]) -> None:
    # layers may share weights, and tensors of a file may not: a copy of each, in memory for as long as it is written
    tensors = {key: value.clone(memory_format=torch.contiguous_format) for key, value in trained.state.items()}
    (folder / WEIGHTS_FILE).write_bytes(save(tensors))  # save_file would make it readable for its owner alone
    description = {
        "format_version": FORMAT_VERSION,
        "library_name": LIBRARY,
        "model": trained.config.to_dict(),
        "training": trained.training,
        "exported_with": versions(),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(description | more, indent=2) + "\n")
    (folder / CARD_FILE).write_text(card)


def _write_sums(folder: Path) -> None:
    names = [name for name in RELEASE_FILES if (folder / name).exists()]
    (folder / SUMS_FILE).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def check_replaceable(folder: Path, *, overwrite: bool, option: str = "--overwrite") -> None:
    """Raises: InputError if something is at `folder` that may not be replaced.

    Only what `write_release` wrote may be: its config.json says whose it is, and nothing else lies there.

    Args:
        folder: Of a release to be.
        overwrite: Whether a release may be replaced.
        option: How the caller says so.
    """
    if not (folder.exists() or folder.is_symlink()):
        return
    if not overwrite:
        raise InputError(f"{folder} exists already; add {option} to replace a release. Give another folder.")
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder} is not a folder that a release was written to. Give another folder.")
    try:
        ours = json.loads((folder / CONFIG_FILE).read_text()).get("library_name") == LIBRARY
    except (OSError, ValueError, AttributeError):
        ours = False
    foreign = sorted({path.name for path in folder.iterdir()} - {*RELEASE_FILES, SUMS_FILE})
    if not ours or foreign:
        why = f"holds {foreign[0]}, which no release has" if foreign else f"has no {CONFIG_FILE} of lightning_sq"
        raise InputError(f"{folder} exists already and is not a release: it {why}. Give another folder.")


def read_release(folder: Path) -> TrainedModel:
    """The model in a release folder, each file first held against SHA256SUMS.

    Raises: InputError if a file is missing, altered, no file of the folder, or does not say what it should.
    """
    listed = read_sums(folder)
    check_needed(folder, listed)
    description = read_description(folder)
    try:
        state = load_file(folder / WEIGHTS_FILE)
    except Exception as error:  # the sums agree, so this was released broken
        raise _unreadable(folder / WEIGHTS_FILE, error) from error
    return TrainedModel(ModelConfig.from_dict(description["model"]), state, description.get("training", {}))


def read_description(folder: Path) -> dict[str, Any]:
    """config.json. Raises: InputError if it is no description of a model, or of another format."""
    path = folder / CONFIG_FILE
    try:
        description = json.loads(path.read_text())
        found = description["format_version"], description["model"]
    except Exception as error:  # also RecursionError and whatever else a stranger's JSON makes a parser raise
        raise _unreadable(path, error) from error
    if found[0] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {found[0]}, this version reads {FORMAT_VERSION}. "
            "Install the lightning-sq that wrote it."
        )
    return description


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not what a release has there ({type(error).__name__}). Export it again.")
