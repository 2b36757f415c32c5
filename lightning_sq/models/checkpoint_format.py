"""What a Lightning checkpoint (.ckpt) of lightning_sq holds, for going on with training; nothing in it is trusted.

It is opened with weights_only=True, so no code in it runs. For others there is `release_format`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn

from lightning_sq import __version__
from lightning_sq.errors import InputError, one_line
from lightning_sq.layers import SoftQuantization
from lightning_sq.models.backbone import with_known_tag
from lightning_sq.models.build import ModelConfig, PixelClassifier, QuantizerConfig, build_model
from lightning_sq.models.commit import commit
from lightning_sq.ops.default_dtype import default_dtype
from lightning_sq.ops.tensor_digest import add_tensors
from lightning_sq.words import counted

CHECKPOINT_KEY = "lightning_sq"
FORMAT_VERSION = 1
RESUME_KEYS = ("model_at_start", "settings", "random_streams")
"""What a checkpoint's `resume` holds; see `training.resume`."""
YOUR_OWN = "A network of your own is judged in Python: lightning_sq.evaluate(model, images, labels, epsilon=...)."
"""For somebody whose file is not of this project."""


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

        Raises: InputError if the description cannot be built, or a tensor is missing, superfluous, or of another
            shape or dtype.
        """
        try:
            with default_dtype(torch.float32):
                model = build_model(replace(self.config, architecture=with_known_tag(self.config.architecture)))
            model.config = self.config
        except InputError:
            raise
        except Exception as error:  # a stranger's values; each architecture refuses in its own way
            raise InputError(
                f"No model is as its description says ({one_line(error, named=True)}). Export the checkpoint again."
            ) from error
        if wrong := misfit_in_words(model, self.state):
            raise InputError(
                f"The weights do not fit a {self.config.architecture} with "
                f"{counted(len(self.config.class_names), 'class')}: {wrong}. Export the checkpoint again."
            )
        model.load_state_dict(self.state)
        return model.eval()

    def fingerprint(self) -> str:
        """SHA-256 of the description and of each tensor's name, dtype, shape and bytes, in the order of the names."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        add_tensors(digest, self.state)
        return digest.hexdigest()


def misfits(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that `model` or `state` lacks, else of those with another shape or dtype."""
    own = model.state_dict()
    return sorted(own.keys() ^ state.keys()) or sorted(
        key for key in own if own[key].shape != state[key].shape or own[key].dtype != state[key].dtype
    )


def misfit_in_words(model: PixelClassifier, state: dict[str, Tensor]) -> str | None:
    """What `misfits` finds, for the inside of a sentence; None if that is nothing."""
    wrong = misfits(model, state)
    if not wrong:
        return None
    difference = _difference(model.state_dict().get(wrong[0]), state.get(wrong[0]))
    return f"{counted(len(wrong), 'difference')}, the first in {wrong[0]!r}, which {difference}"


def _difference(wanted: Tensor | None, found: Tensor | None) -> str:
    """In words; both are None for no tensor only."""
    if found is None:
        return "is missing"
    if wanted is None:
        return "the model has not"
    if wanted.shape != found.shape:
        return f"has the shape {tuple(found.shape)} and not {tuple(wanted.shape)}"
    return f"is of {str(found.dtype).removeprefix('torch.')} and not of {str(wanted.dtype).removeprefix('torch.')}"


def versions() -> dict[str, str]:
    """Of the packages that numbers depend on; with `importlib.metadata`, so nothing is imported for it.

    `commit` is the one of lightning_sq's code, "unknown" where it was installed from an archive.
    """
    names = ("torch", "timm", "torchvision", "lightning", "nvidia-dali-cuda130")
    return {"lightning_sq": __version__, "commit": commit()} | {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "not installed"


def checkpoint_entry(
    config: ModelConfig,
    recipe: dict[str, Any],
    *,
    epochs_trained: float | None = None,
    resume: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What a Lightning checkpoint holds beside Lightning's own: plain values and tensors only.

    Args:
        config: The model as it is now.
        recipe: The run's whole configuration.
        epochs_trained: May be a fraction.
        resume: What going on needs and the weights do not hold; see `RESUME_KEYS`.
    """
    return {
        "format_version": FORMAT_VERSION,
        "model": config.to_dict(),
        "epochs_trained": epochs_trained,
        "resume": resume,
        "recipe": recipe,
        "versions": versions(),
    }


def open_checkpoint(path: Path) -> dict[str, Any]:
    """Everything in a Lightning checkpoint of lightning_sq, on the CPU.

    Raises: InputError if the file is missing, damaged, holds code, is not from lightning_sq, or lacks a part.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"There is no checkpoint {path}: it {what}. Give a .ckpt file that `lightning-sq fit` wrote.")
    try:
        _check_archive(path)
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=False)
    except Exception as error:  # a damaged zip or pickle makes torch raise whatever it stumbles over
        raise InputError(
            f"{path} is truncated, altered, or no checkpoint ({type(error).__name__}). "
            f"Take the one before it, or train again. {YOUR_OWN}"
        ) from error
    entry = content.get(CHECKPOINT_KEY) if isinstance(content, dict) else None
    if not isinstance(entry, dict) or not isinstance(content.get("state_dict"), dict):
        raise InputError(f"{path} is not a checkpoint that `lightning-sq fit` wrote. {YOUR_OWN}")
    if entry.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {entry.get('format_version')}, this version reads {FORMAT_VERSION}. "
            "Install the lightning-sq that wrote it."
        )
    require_keys(path, entry, ("model", "recipe", "versions"))
    return content


def _check_archive(path: Path) -> None:
    """torch looks at no checksum, and takes an entry that is marked as a folder for one of memory as it lies there.

    Raises: BadZipFile or whatever a damaged archive makes zipfile raise.
    """
    with ZipFile(path) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) != len(entries):
            raise BadZipFile("a name is there twice")
        for entry in entries:
            if entry.is_dir() or entry.external_attr or entry.compress_type:  # torch compresses nothing
                raise BadZipFile(f"{entry.filename} is no plain file")
            with archive.open(entry) as stream:  # which compares the names, and at its end the checksums
                while stream.read(1 << 20):
                    pass


def require_keys(path: Path, values: Any, keys: Iterable[str]) -> None:
    """Raises: InputError if `values`, which stood in `path`, is no dictionary with all of `keys`."""
    missing = [key for key in keys if not isinstance(values, dict) or values.get(key) is None]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}: an older lightning-sq wrote it, or it was saved without the state of "
            "the training. Take another checkpoint, or train again."
        )


def trained_model(content: dict[str, Any]) -> TrainedModel:
    """The model in what `open_checkpoint` gave; the averaged weights if the run kept an average."""
    entry, prefix = content[CHECKPOINT_KEY], "model."
    state = content["state_dict"]
    if foreign := next((name for name, value in state.items() if not isinstance(value, Tensor)), None):
        raise InputError(f"The checkpoint holds {foreign!r} among its weights, which is no tensor. Train again.")
    state = {str(name).removeprefix(prefix): v for name, v in state.items() if str(name).startswith(prefix)}
    training = {
        "epochs": entry.get("epochs_trained"),
        "steps": content.get("global_step"),
        "recipe": entry["recipe"],
        "versions": entry["versions"],
    }
    return TrainedModel(_as_stored(ModelConfig.from_dict(entry["model"]), state), state, training)


def _as_stored(config: ModelConfig, state: dict[str, Tensor]) -> ModelConfig:
    """`config` with what the quantizer has learnt as it is in `state`: a run that averages its weights describes those
    that it trains, and stores the average. Tensors that do not fit are left to `TrainedModel.build`.
    """
    prefix = "quantize."
    learnt = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if config.quantizer is None or not learnt:
        return config
    layer = SoftQuantization(**asdict(config.quantizer))
    own = layer.state_dict()
    if misfits(layer, learnt) or all(torch.equal(value, own[name]) for name, value in learnt.items()):
        return config  # as it is to the last digit: what a sharpness is stored as rounds it
    layer.load_state_dict(learnt)
    try:
        return replace(config, quantizer=QuantizerConfig(**layer.settings()))
    except OverflowError:
        raise InputError(
            "The checkpoint's quantizer has learnt a sharpness that is larger than any number. Train again."
        ) from None


def read_checkpoint(path: Path) -> TrainedModel:
    """`trained_model` of `open_checkpoint`. Raises: InputError as the latter does."""
    return trained_model(open_checkpoint(path))
