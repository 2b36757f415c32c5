"""The two forms in which weights are kept, and nothing is trusted about either.

A Lightning checkpoint (.ckpt) is for going on with training; it is opened with weights_only=True, so no code in it
runs. A release is a folder of model.safetensors, config.json, README.md and SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_sq import __version__
from lightning_sq.errors import InputError
from lightning_sq.models.build import ModelConfig, PixelClassifier, build_model

CHECKPOINT_KEY = "lightning_sq"
FORMAT_VERSION = 1
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, SUMS_FILE = "model.safetensors", "config.json", "README.md", "SHA256SUMS"


@dataclass(frozen=True)
class TrainedModel:
    """Weights with their description.

    Args:
        config: What to build.
        state: Tensors of the `PixelClassifier`.
        training: Epoch, step, recipe and versions, for people to read.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)

    def build(self) -> PixelClassifier:
        """The model in eval mode.

        Raises: InputError if a tensor is missing, superfluous, or of another shape.
        """
        model = build_model(self.config)
        own = model.state_dict()
        wrong = sorted(own.keys() ^ self.state.keys()) or sorted(
            key for key in own if own[key].shape != self.state[key].shape or own[key].dtype != self.state[key].dtype
        )
        if wrong:
            raise InputError(
                f"The weights do not fit a {self.config.architecture} with {len(self.config.class_names)} classes: "
                f"{len(wrong)} tensors differ, the first is {wrong[0]!r}. Export the checkpoint again."
            )
        model.load_state_dict(self.state)
        return model.eval()


def versions() -> dict[str, str]:
    """Of the packages that numbers depend on; with `importlib.metadata`, so nothing is imported for it."""
    names = ("torch", "timm", "torchvision", "lightning", "nvidia-dali-cuda130")
    return {"lightning_sq": __version__} | {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "not installed"


def checkpoint_entry(config: ModelConfig, random_states: list[Tensor | None], recipe: dict[str, Any]) -> dict[str, Any]:
    """What a Lightning checkpoint holds beside Lightning's own: plain values and tensors only."""
    return {
        "format_version": FORMAT_VERSION,
        "model": config.to_dict(),
        "random_states": random_states,
        "recipe": recipe,
        "versions": versions(),
    }


def read_checkpoint(path: Path) -> TrainedModel:
    """The model in a Lightning checkpoint; the averaged weights if the run kept an average.

    Raises: InputError if the file is missing, damaged, holds code, or is not from lightning_sq.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    try:
        with ZipFile(path) as archive:  # torch does not look at the checksums
            if damaged := archive.testzip():
                raise BadZipFile(f"checksum of {damaged}")
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=False)
    except Exception as error:  # a damaged zip or pickle makes torch raise whatever it stumbles over
        raise InputError(
            f"{path} is truncated, altered, or no checkpoint ({type(error).__name__}). "
            "Take the one before it, or train again."
        ) from error
    entry = content.get(CHECKPOINT_KEY) if isinstance(content, dict) else None
    if not isinstance(entry, dict) or not isinstance(content.get("state_dict"), dict):
        raise InputError(f"{path} is not a checkpoint of lightning_sq. Give one that `lightning-sq fit` wrote.")
    if entry.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {entry.get('format_version')}, this version reads {FORMAT_VERSION}. "
            "Install the lightning-sq that wrote it."
        )
    prefix = "model."
    state = {key.removeprefix(prefix): v for key, v in content["state_dict"].items() if key.startswith(prefix)}
    training = {key: content.get(key) for key in ("epoch", "global_step")}
    training |= {"recipe": entry["recipe"], "versions": entry["versions"]}
    return TrainedModel(ModelConfig.from_dict(entry["model"]), state, training)


def write_release(folder: Path, trained: TrainedModel, card: str, *, overwrite: bool = False) -> None:
    """Write a release folder, whole or not at all.

    Raises: InputError if `folder` exists and is not to be overwritten, or is not a release.
    """
    if folder.exists() and not (overwrite and (folder / SUMS_FILE).is_file()):
        hint = "and is not a release" if overwrite else "; add --overwrite to replace a release"
        raise InputError(f"{folder} exists already {hint}. Give another folder.")
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in trained.state.items()}, partial / WEIGHTS_FILE)
    description = {
        "format_version": FORMAT_VERSION,
        "library_name": "lightning_sq",
        "model": trained.config.to_dict(),
        "training": trained.training,
        "exported_with": versions(),
    }
    (partial / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
    (partial / CARD_FILE).write_text(card)
    names = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)
    (partial / SUMS_FILE).write_text("".join(f"{sha256(partial / name)}  {name}\n" for name in names))
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)


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
    listed = dict(
        reversed(line.split(maxsplit=1)) for line in sums.read_text(errors="replace").splitlines() if " " in line
    )
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
