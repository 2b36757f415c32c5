"""Whether a checkpoint fits the run that is to go on from it, known before anything is loaded or written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from pydoc import locate
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, PixelClassifier
from lightning_sq.models.checkpoint_format import (
    CHECKPOINT_KEY,
    RESUME_KEYS,
    TrainedModel,
    misfits,
    open_checkpoint,
    require_keys,
    trained_model,
)
from lightning_sq.training.defaults import defaults_of
from lightning_sq.training.optim import Optimization
from lightning_sq.training.resume.begin_epoch_again import MAY_DIFFER
from lightning_sq.training.resume.logs import STATE_KEY as LOGS_KEY
from lightning_sq.words import counted

OnMismatch = Literal["error", "restart_epoch"]

AUGMENTATION = ("min_crop_area", "flip_probability", "max_shift", "shift_epochs")
"""How a training image is shown, by the names of the data module."""

REMEDIES = {
    "num_images": "Give --data.root the {} images that it had",
    "images": "Give --data.root the images that it had, no file more and none for another",
    "batch_size_per_device": "Set --data.batch_size_per_device {}",
    "num_processes": "Set --trainer.devices times --trainer.num_nodes to {}",
    "batch_repeats": "Set --data.batch_repeats {}",
    "accumulate_grad_batches": "Set --trainer.accumulate_grad_batches {}",
    "limit_train_batches": "Set --trainer.limit_train_batches {}",
    "seed": "Set --seed_everything {}",
    "precision": "Set --trainer.precision {}",
    **{name: f"Set --data.{name} {{}}" for name in ("backend", *AUGMENTATION)},
}
"""What decides which images a step sees, and in which numbers, and what to type to have it as it was."""

NATURAL = "lightning_sq.objectives.Natural"
"""What is minimised where a recipe says nothing."""

OBJECTIVE = "objective."
"""Before the names of an objective's tensors in a checkpoint."""

CHANGE_TRAINING = ("EMAWeightAveraging", "ProgressiveResizing", "SharpnessSchedule", "WeightAveraging")
"""Callbacks that do more than look on."""

RESTART_EPOCH = (*MAY_DIFFER, "num_images", "images")
"""With others of these a run can go on from the beginning of its epoch."""

RESTARTED = ("loops", "optimizer_states", "lr_schedulers", "callbacks")
"""What Lightning puts back itself; a checkpoint of weights alone lacks it."""


def settings(trainer: Trainer, data: ImageFolderData, optimization: Optimization) -> dict[str, Any]:
    """What may not change between a checkpoint and the run that goes on from it.

    Lightning counts the batches of the epoch itself, and puts the learning rate back: with other batches it would cut
    the epoch short or repeat its end, at a rate that is not theirs.
    """
    return {
        "num_images": len(data.index("train")),
        "images": data.index("train").fingerprint()[:12],  # one image for another shifts all behind it
        "batch_size_per_device": data.batch_size_per_device,
        "num_processes": trainer.num_devices * trainer.num_nodes,
        "batch_repeats": data.batch_repeats,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "limit_train_batches": trainer.limit_train_batches,
        "seed": data.seed,
        "precision": trainer.precision,
        "backend": "memory" if data.backend == "memory" else "dali or torchvision",  # which crop alike, and it does not
        **{name: getattr(data, name) for name in AUGMENTATION},
        **asdict(optimization),
    }


@dataclass(frozen=True)
class SavedRun:
    """A checkpoint, as far as one has to know it before it is loaded.

    Args:
        path: The file.
        model: Description, and tensors without their values.
        resume: `RESUME_KEYS`.
        logged: `global_step`, and what `LogsGoOn` noted; `rows` is None where it did not.
        objective: The names of its parameters and buffers.
    """

    path: Path
    model: TrainedModel
    resume: dict[str, Any]
    logged: dict[str, Any]
    objective: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path, *, to_go_on: bool) -> SavedRun:
        """Raises: InputError if the file is no good, or lacks what training goes on with where that is wanted."""
        content = open_checkpoint(path)
        entry = content[CHECKPOINT_KEY]
        require_keys(path, entry, ["resume"])
        require_keys(path, entry["resume"], RESUME_KEYS)
        if to_go_on:
            require_keys(path, content, RESTARTED)
        model = trained_model(content)
        shapes = {name: tensor.to("meta") for name, tensor in model.state.items()}  # the weights need not stay
        logged = {"rows": None} | (content.get("callbacks") or {}).get(LOGS_KEY, {})
        logged["global_step"] = content.get("global_step")
        own = frozenset(name.removeprefix(OBJECTIVE) for name in content["state_dict"] if name.startswith(OBJECTIVE))
        return cls(path, replace(model, state=shapes), entry["resume"], logged, own)

    def check_objective(self, objective: nn.Module) -> None:
        """Raises: InputError if the checkpoint lacks what `objective` learns or keeps, or holds more than that."""
        if odd := sorted(self.objective ^ objective.state_dict().keys()):
            raise InputError(
                f"{self.path} is of another objective than {type(objective).__name__}: {odd[0]!r} is in one of them "
                "alone. Set --model.objective as it was, or leave this checkpoint."
            )

    def check_recipe(self, recipe: dict[str, Any]) -> None:
        """Raises: InputError if another objective is to be minimised than in the saved run, or by other callbacks."""
        there = self.model.training["recipe"]
        others = chain(_other_objective(there, recipe), _other_callbacks(there, recipe))
        for option, old, new in others:
            raise InputError(
                f"{self.path} is from a run with {option} {_short(old)}, this one has {_short(new)}, and a run goes on "
                "as it began. Set it as it was, or start a new run in another --output, to which "
                f"--model.checkpoint_path {self.path} gives these weights."
            )

    def check_model(self, model: PixelClassifier) -> None:
        """Raises: InputError if the checkpoint is of another model than `model`."""
        there, here = ModelConfig.from_dict(self.resume["model_at_start"]), model.config
        for name, old, new in _differences(there, here):
            old, new = _first_difference(old, new) if name == "class_names" else (old, new)
            raise InputError(
                f"{self.path} holds another model: {name} is {_short(old)} in it and {_short(new)} here. "
                f"Set {_model_option(name)} as it was, or leave this checkpoint."
            )
        if wrong := misfits(model, self.model.state):
            raise InputError(
                f"{self.path} holds other weights than this {here.architecture} has: "
                f"{counted(len(wrong), 'difference')}, the first in {wrong[0]!r}. Install the timm that it was trained "
                "with."
            )

    def check_settings(self, here: dict[str, Any], on_mismatch: OnMismatch) -> bool:
        """Whether the epoch has to start again, since this run takes other batches than the saved one.

        Raises: InputError if a step would see other images, or follow them otherwise, than in the saved run, and that
            is not allowed or cannot be mended.
        """
        there = here | asdict(Optimization()) | self.resume["settings"]  # an older one does not say all of it
        others = {name: (there[name], new) for name, new in here.items() if there[name] != new}
        for name, (old, new) in others.items():
            if on_mismatch == "restart_epoch" and name in RESTART_EPOCH:
                continue
            remedy = REMEDIES.get(name, f"Set --model.optimization.{name} {{}}").format("null" if old is None else old)
            again = ", add --on_mismatch restart_epoch" if name in RESTART_EPOCH else ""
            raise InputError(
                f"{self.path} is from a run with {name}={old}, this one has {new}, and a run goes on as it began. "
                f"{remedy}{again}, or start a new run in another --output."
            )
        if others:
            changes = ", ".join(f"{name}={old} is now {new}" for name, (old, new) in others.items())
            rank_zero_info(f"The epoch of {self.path} starts again from its first image: {changes}.")
        return bool(others)


def _differences(there: ModelConfig, here: ModelConfig) -> Iterable[tuple[str, Any, Any]]:
    """(field, in the checkpoint, here) wherever the two differ."""
    if there.num_channels != here.num_channels:
        yield "channels", there.num_channels, here.num_channels
    for field in fields(ModelConfig):
        old, new = getattr(there, field.name), getattr(here, field.name)
        if field.name == "quantizer" and old and new:
            old, new = asdict(old), asdict(new)
            yield from ((f"quantizer.{key}", old[key], new[key]) for key in old if old[key] != new[key])
        elif old != new:
            yield field.name, old, new


def _other_objective(there: dict[str, Any], here: dict[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    """(option, in the checkpoint, here) wherever two recipes differ; what an older one does not say is the default."""
    old, new = (recipe.get("model", {}).get("objective") or {"class_path": NATURAL} for recipe in (there, here))
    if old["class_path"] != new["class_path"]:
        yield "--model.objective", old["class_path"], new["class_path"]
        return
    old = defaults_of(locate(new["class_path"])) | (old.get("init_args") or {})
    new = new.get("init_args") or {}
    yield from ((f"--model.objective.{key}", old[key], new[key]) for key in new if key in old and old[key] != new[key])


def _other_callbacks(there: dict[str, Any], here: dict[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    """The same of callbacks that `CHANGE_TRAINING`."""
    old, new = (
        {name: one for one in recipe.get("trainer", {}).get("callbacks") or [] if (name := _class_name(one))}
        for recipe in (there, here)
    )
    for name in CHANGE_TRAINING:
        if old.get(name) != new.get(name):
            yield f"the callback {name}", *(_options_in_words(one.get(name)) for one in (old, new))


def _options_in_words(callback: dict[str, Any] | None) -> str | None:
    return None if callback is None else str(callback.get("init_args") or "with its defaults")


def _class_name(given: Any) -> str:
    return given["class_path"].rpartition(".")[2] if isinstance(given, dict) and "class_path" in given else ""


def _first_difference(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, str]:
    if len(old) != len(new):
        return counted(len(old), "class"), counted(len(new), "class")
    return next(pair for pair in zip(old, new, strict=True) if pair[0] != pair[1])


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _model_option(name: str) -> str:
    if name in ("image_size", "resize_size", "channels"):
        return f"--data.{name}"
    return {"class_names": "--data.root", "mean": "--model.architecture", "std": "--model.architecture"}.get(
        name, f"--model.{name}"
    )
