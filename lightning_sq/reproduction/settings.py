"""What a study is asked for, and what is run for that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.index import load_index
from lightning_sq.evaluation.results import is_older
from lightning_sq.evaluation.suites import attacks_by_name
from lightning_sq.reproduction.earlier import NOTHING, Earlier
from lightning_sq.reproduction.proofs import MAX_BOXES, can_prove
from lightning_sq.reproduction.recipes import Recipe, recipe_of
from lightning_sq.reproduction.runs import TRAINED, Run, Step, evaluation_step, trained_at_hand, training_step
from lightning_sq.reproduction.studies import Row, Study
from lightning_sq.run_files import LAST_CHECKPOINT

Form = Literal["full", "small", "quick"]
RATE = "model.optimization.base_learning_rate"
USUAL: dict[Form, dict[str, Any]] = {
    "full": {"num_images": 1000, "attacks": "standard"},
    "small": {"num_images": 1000, "attacks": "standard"},
    "quick": {"num_images": 100, "attacks": "quick"},
}
"""Of the evaluation."""
SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Of the epochs of a row whose accuracy is held against the time of its training, for its shorter schedules."""


@dataclass(frozen=True)
class Settings:
    """How a study is run.

    Args:
        study: Which.
        rows: Names of its rows.
        form: "full", by the recipes; "small", the same schedules with the network of the study's `small.yaml`; or
            "quick", with that network, short schedules and one seed.
        num_seeds: Most seeds of each row; None for the study's own number.
        max_epochs: Longest schedule, into which longer ones are pressed; None for the recipes' own.
        configs: Folder of the recipes.
        data: Image folder to train and test on.
        tuning_data: Image folder whose val are training images; None leaves the learning rates as the recipes say.
        runs: Folder of the runs.
        attacks: As of evaluate.
        num_images: Test images to attack, at least: a row of the earlier page may have more.
        jobs: Rows at a time.
        num_threads: CPU threads of each.
        shares: Of the epochs of the rows whose time is told, for their shorter schedules.
        times: Whether the rows, which the earlier page has, are only timed: trained again, and not attacked.
        earlier: What an earlier page measured, which is not measured again.
        assumed: (training, test) images that `data` will have, for a plan without them; None counts them.
        began: When the command was given, UTC; what one command trained was trained in one run.
    """

    study: Study
    rows: tuple[str, ...]
    form: Form
    num_seeds: int | None
    max_epochs: int | None
    configs: Path
    data: Path
    tuning_data: Path | None
    runs: Path
    attacks: str
    num_images: int
    jobs: int
    num_threads: int
    shares: tuple[float, ...] = ()
    times: bool = False
    earlier: Earlier = NOTHING
    assumed: tuple[int, int] | None = None
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def quick(self) -> bool:
        """Whether it is the quick form."""
        return self.form == "quick"

    @property
    def max_boxes(self) -> int:
        """Of the proofs of its page."""
        return 0 if self.quick else MAX_BOXES

    @cached_property
    def num_data(self) -> tuple[int, int]:
        """(training, test) images."""
        if self.assumed:
            return self.assumed
        train, val = self._indices
        return len(train), len(val)

    @property
    def num_attacked(self) -> int:
        """Test images to attack, of those that there are."""
        return min(self.num_images, self.num_data[1])

    def steps_per_epoch(self, data: dict[str, Any]) -> int:
        """Of a recipe with those `data`, on all training images."""
        return data.get("batch_repeats", 1) * math.ceil(self.num_data[0] / data["batch_size_per_device"])

    @cached_property
    def _indices(self) -> list[ImageIndex]:
        return _indices_of(self.data)

    @cached_property
    def _images(self) -> str:
        return "" if self.assumed else _fingerprint(self._indices)

    @cached_property
    def _tuning_images(self) -> str:
        if self.assumed or self.tuning_data is None or not self.tuning_data.is_dir():  # which a plan does not make
            return ""
        return _fingerprint(_indices_of(self.tuning_data))

    def conditions(self) -> dict[str, Any]:
        """What all numbers of a page have in common, as the page says it."""
        train, val = self.num_data
        return {
            "study": self.study.name,
            "epsilon": self.study.epsilon,
            "form": self.form,
            "max_epochs": self.max_epochs,
            "data": {"train": train, "val": val, "whole": (train, val) == self.study.num_images},
            "attacks": list(attacks_by_name(self.attacks)),
        }

    def recipe(self, row: Row, seed: int, changes: dict[str, Any]) -> Recipe:
        """The recipe of a row in this form, with `changes` besides."""
        form = row.quick if self.quick else {}
        recipe = recipe_of(self.study, row, configs=self.configs, seed=seed, changes=form, small=self.form != "full")
        if self.max_epochs is not None and self.max_epochs < recipe.num_epochs:
            recipe = recipe.pressed_into(self.max_epochs)
        return replace(recipe, changes=recipe.changes | changes)

    def planned(self, rates: Mapping[str, float]) -> list[Run]:
        """Every row with every seed, and the first seed of those whose time is told by every shorter schedule.

        Args:
            rates: Row -> its learning rate, where it was tuned.
        """
        runs = []
        for row in map(self.study.row, self.rows):
            num_seeds = 1 if self.quick else row.num_seeds
            changes = {RATE: rates[row.name]} if row.name in rates else {}
            for seed in range(min(num_seeds, self.num_seeds or num_seeds)):
                recipe = self.recipe(row, seed, changes)
                runs.append(Run(row, seed, recipe, self.runs / row.name / f"seed{seed}"))
            if row.name in self.study.timed:
                runs += self._shorter(row, self.recipe(row, 0, changes))
        return runs

    def _shorter(self, row: Row, recipe: Recipe) -> list[Run]:
        by_epochs = {shorter.num_epochs: shorter for shorter in map(recipe.shorter, self.shares)}
        by_epochs.pop(recipe.num_epochs, None)
        folder = self.runs / row.name
        return [Run(row, 0, one, folder / f"epochs{n}", is_shorter=True) for n, one in by_epochs.items()]

    def missing(self, rates: Mapping[str, float]) -> list[Run]:
        """Planned runs without a page entry, with one of fewer images, or with one by weaker attacks while their
        checkpoint is here; where rows are to be timed, those that have an entry.
        """
        if self.times:
            return [run for run in self.planned(rates) if self.earlier.seed(run) is not None]
        return [run for run in self.planned(rates) if not self._is_known(run)]

    def _is_known(self, run: Run) -> bool:
        entry = self.earlier.seed(run)
        if entry is None or entry["num_images"] < self.num_attacked:
            return False
        return not is_older(entry) or trained_at_hand(run) is None or not run.checkpoint.exists()

    def is_lost(self, run: Run) -> bool:
        """Whether it was trained here, and its checkpoint, which is yet to be attacked or proven, has been removed."""
        if self.times or trained_at_hand(run) is None or run.checkpoint.exists():
            return False
        return self.attacks_on(run).is_left() or not can_prove(run, max_boxes=self.max_boxes)

    def is_measured(self, run: Run) -> bool:
        """Whether it was trained and attacked here, and can be proven. Raises: as `Step.is_done`."""
        are_done = self.training_of(run).is_done() and self.attacks_on(run).is_done()
        return are_done and can_prove(run, max_boxes=self.max_boxes)

    def transfer_sources(self, runs: Sequence[Run]) -> dict[str, Path]:
        """The undefended net and the PGD-trained one, whose adversarial images are tried on the others, if there.

        The first of its seeds among `runs`, which will be trained by then, or what an earlier command has trained, but
        for those whose checkpoint has been removed since.
        """
        found = {}
        for name in (self.study.natural, self.study.adversarial):
            folders = [run.folder for run in runs if run.row.name == name and not run.is_shorter]
            folders += [folder for folder in [self.runs / name / "seed0"] if (folder / TRAINED).exists()]
            folders = [one for one in folders if (one / LAST_CHECKPOINT).exists() or not (one / TRAINED).exists()]
            if folders:
                found[name] = folders[0] / LAST_CHECKPOINT
        return found

    def training_of(self, run: Run, estimate: float = 0.0) -> Step:
        """The training of a run on the data set."""
        return training_step(run, self.data, self._images, estimate)

    def trial_of(self, run: Run, estimate: float = 0.0) -> Step:
        """The training of a run on the split whose val are training images."""
        assert self.tuning_data is not None
        return training_step(run, self.tuning_data, self._tuning_images, estimate)

    def attacks_on(self, run: Run, sources: Sequence[str] = (), estimate: float = 0.0) -> Step:
        """The evaluation of a run, by the same attacks for every row; see `evaluation_step`."""
        options = ["--data", str(self.data), "--epsilon", self.study.epsilon, "--attacks", self.attacks]
        options += ["--backend", "torchvision", "--num-threads", "1"]
        return evaluation_step(run, options, self.num_attacked, self._images, sources, estimate)


def _indices_of(data: Path) -> list[ImageIndex]:
    """Of both splits."""
    return [load_index(data / split) for split in ("train", "val")]


def _fingerprint(splits: Sequence[ImageIndex]) -> str:
    return "-".join(index.fingerprint()[:12] for index in splits)
