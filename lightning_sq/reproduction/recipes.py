"""The recipe of a row: the study's own, with what its quick form and the row change laid over it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, PixelClassifier, QuantizerConfig, build_model
from lightning_sq.models.backbone import pretrained_normalization
from lightning_sq.recipe_layers import laid_over, read_layer
from lightning_sq.reproduction.studies import Row, Study

_WARMUP = "model.optimization.warmup_epochs"
_RAMP = ("model.objective.init_args.ramp_steps", "model.objective.init_args.warmup_steps")
_IN_THE_SCHEDULE = (_WARMUP, *_RAMP, "data.shift_epochs")
"""Options that say when something on the way of training ends, in epochs or in steps."""


@dataclass(frozen=True)
class Recipe:
    """What `lightning-sq fit` is given for one row.

    Args:
        files: The recipe files, in the order in which they are laid over each other.
        changes: Values that the form of the study changes, by their option's name without dashes.
    """

    files: tuple[Path, ...]
    changes: dict[str, Any]

    def options(self) -> list[str]:
        """The words behind `lightning-sq fit`."""
        words = [word for file in self.files for word in ("--config", str(file))]
        return words + [word for name, value in self.changes.items() for word in (f"--{name}", str(value))]

    def values(self) -> dict[str, Any]:
        """All of it as one dictionary, defaults left out."""
        values: dict[str, Any] = {}
        for file in self.files:
            values = laid_over(values, read_layer(file))
        for name, value in self.changes.items():
            *path, last = name.split(".")
            place = values
            for part in path:
                place = place.setdefault(part, {})
            place[last] = value
        return values

    @property
    def num_epochs(self) -> int:
        """Of the training."""
        return self.values()["trainer"]["max_epochs"]

    @property
    def ramp(self) -> dict[str, int]:
        """Over how many steps the objective warms up and ramps up, by the options' names; empty if it does not."""
        known = {name: _value(self.values(), name) for name in _RAMP}
        return {name: steps for name, steps in known.items() if steps}

    @property
    def ramp_steps(self) -> int:
        """Until the objective is what it is to be."""
        return sum(self.ramp.values())

    def shorter(self, share: float) -> Recipe:
        """The same schedule pressed into `share` of its epochs, at least one: what ends on the way ends sooner."""
        values, epochs = self.values(), self.num_epochs
        fewer = max(1, round(share * epochs))
        changes: dict[str, Any] = {"trainer.max_epochs": fewer}
        for name in _IN_THE_SCHEDULE:
            if ends := _value(values, name):
                sooner = ends * fewer / epochs
                changes[name] = sooner if name == _WARMUP else round(sooner)
        return Recipe(self.files, self.changes | changes)

    def pressed_into(self, epochs: int) -> Recipe:
        """The same schedule in fewer epochs. The learning rate grows as long as ever, for half of them at most: a small
        network without norms that it grew too fast for did not learn against PGD.
        """
        pressed, warmup = self.shorter(epochs / self.num_epochs), _value(self.values(), _WARMUP) or 0.0
        return replace(pressed, changes=pressed.changes | {_WARMUP: min(warmup, epochs / 2)})

    def fingerprint(self) -> str:
        """Another recipe has another."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()[:16]

    def model(self, num_classes: int) -> PixelClassifier:
        """The network with random weights, to be timed."""
        model, data = self.values()["model"], self.values()["data"]
        channels, size = data.get("channels", 3), data["image_size"]
        quantizer = None if model.get("quantizer") is None else QuantizerConfig(**model["quantizer"])
        names = tuple(str(i) for i in range(num_classes))
        mean, std = pretrained_normalization(model["architecture"], channels)
        return build_model(ModelConfig(model["architecture"], names, mean, std, size, size, quantizer))

    def objective(self) -> nn.Module:
        """What is minimised."""
        given = self.values()["model"]["objective"]
        path, arguments = (given, {}) if isinstance(given, str) else (given["class_path"], given.get("init_args", {}))
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)(**arguments)


def recipe_of(
    study: Study, row: Row, *, configs: Path, seed: int, changes: dict[str, Any], small: bool = False
) -> Recipe:
    """The recipe of `row`; where it is to be small, over the study's `small.yaml`, if it has one.

    Raises: InputError if its files are not in `configs`.
    """
    files = [configs / f"{study.name}.yaml"]
    if small and (network := configs / study.name / "small.yaml").is_file():
        files.append(network)
    if row.name != study.method:
        files.append(configs / study.name / f"{row.name}.yaml")
    for file in files:
        if not file.is_file():
            raise InputError(f"There is no {file}. Run this in a clone of the project, or give --configs.")
    return Recipe(tuple(files), {"seed_everything": seed} | changes)


def _value(values: dict[str, Any], name: str) -> Any:
    """What an option is set to; None where it is not."""
    found: Any = values
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
