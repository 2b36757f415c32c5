"""What a study will run, and how long that takes on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightning_sq.data.index import load_index
from lightning_sq.evaluation.suites import attacks_by_name
from lightning_sq.reproduction.recipes import Recipe, recipe_of, seconds_per_image
from lightning_sq.reproduction.runs import CHECKPOINT, TRAINED, Run
from lightning_sq.reproduction.studies import Row, Study

START_SECONDS = 25.0
"""What a command costs before it works, about: imports, and decoding the images."""
RATE = "model.optimization.base_learning_rate"
RATE_FACTORS = (0.5, 1.0, 2.0)
"""Learning rates that are tried for every row, in terms of its recipe's: the same number for all."""
TRIAL_SHARE = 1 / 3
"""Of the epochs of a row, for each learning rate and each variant that is tried."""
TRIAL_IMAGES = 1000
"""Held-out training images that the quick attack gets at the end of a trial, about."""


@dataclass(frozen=True)
class Settings:
    """How a study is run.

    Args:
        study: Which.
        rows: Names of its rows.
        quick: The quick form: short schedules, one seed.
        num_seeds: At most so many of each row; None for the study's own.
        max_epochs: At most so many of each row; None for the recipes' own.
        configs: Folder of the recipes.
        data: Image folder to train and test on.
        tuning_data: Image folder whose val are training images; None leaves the learning rates as the recipes say.
        runs: Folder of the runs.
        attacks: As of evaluate.
        num_images: Test images to attack.
        jobs: Rows at a time.
        num_threads: CPU threads of each.
    """

    study: Study
    rows: tuple[str, ...]
    quick: bool
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

    def recipe(self, row: Row, seed: int, changes: dict[str, Any]) -> Recipe:
        """The recipe of a row in this form, with `changes` besides."""
        place = {"configs": self.configs, "seed": seed, "quick": self.quick}
        form = dict(row.quick) if self.quick else {}
        epochs = recipe_of(self.study, row, changes=form, **place).values()["trainer"]["max_epochs"]
        if self.max_epochs is not None:
            form["trainer.max_epochs"] = min(epochs, self.max_epochs)
        return recipe_of(self.study, row, changes=form | changes, **place)

    def planned(self, rates: Mapping[str, float]) -> list[Run]:
        """Every row with every seed.

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
        return runs

    def trial(self, row: Row, changes: dict[str, Any]) -> Recipe:
        """The recipe of a row with `changes`, for a part of its epochs and one look at held-out images at their end."""
        trainer = self.recipe(row, 0, {}).values()["trainer"]
        epochs = math.ceil(TRIAL_SHARE * trainer["max_epochs"])
        probes = [
            probe | {"init_args": probe["init_args"] | {"num_images": TRIAL_IMAGES}} for probe in trainer["callbacks"]
        ]
        form = {
            "trainer.max_epochs": epochs,
            "trainer.check_val_every_n_epoch": epochs,
            "trainer.callbacks": probes,
        }
        return self.recipe(row, 0, form | changes)

    def to_tune(self) -> list[Run]:
        """Every row with every learning rate."""
        runs = []
        for row in map(self.study.row, self.rows):
            usual = self.recipe(row, 0, {}).values()["model"]["optimization"]["base_learning_rate"]
            for factor in RATE_FACTORS:
                rate = factor * usual
                runs.append(Run(row, 0, self.trial(row, {RATE: rate}), self.runs / row.name / f"tuning/rate{rate:g}"))
        return runs

    def transfer_sources(self) -> dict[str, Path]:
        """The undefended net and the PGD-trained one, whose adversarial images are tried on the others, if there.

        They are of seed 0, trained by this command or an earlier one.
        """
        found = {}
        for name in (self.study.natural, self.study.adversarial):
            folder = self.runs / name / "seed0"
            if name in self.rows or (folder / TRAINED).exists():
                found[name] = folder / CHECKPOINT
        return found

    def attack_options(self) -> list[str]:
        """Of `lightning-sq evaluate`, the same for every row."""
        words = ["--data", str(self.data), "--epsilon", self.study.epsilon, "--attacks", self.attacks]
        return [*words, "--num-images", str(self.num_images), "--backend", "torchvision", "--num-threads", "1"]


class Estimate(NamedTuple):
    """Seconds that one seed of a row takes, about."""

    epoch: float
    training: float
    attacking: float


def estimates(settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Estimate]:
    """Row -> seconds, from a few steps of each that are timed now.

    Args:
        settings: With the data in place.
        progress: Called with (rows timed, rows to time).
    """
    found = {}
    for done, row in enumerate(map(settings.study.row, settings.rows), start=1):
        found[row.name] = estimate_of(settings, settings.recipe(row, 0, {}))
        progress(done, len(settings.rows))
    return found


def estimate_of(settings: Settings, recipe: Recipe) -> Estimate:
    """What a recipe takes, from a few steps of it that are timed now."""
    num_images = len(load_index(settings.data / "train"))
    passes = sum(entry.cost for entry in attacks_by_name(settings.attacks).values())
    threads_before = torch.get_num_threads()
    torch.set_num_threads(settings.num_threads)
    step, forward = seconds_per_image(recipe)
    torch.set_num_threads(threads_before)
    values = recipe.values()
    seen = num_images * values["data"].get("batch_repeats", 1)
    limit = values["trainer"].get("limit_train_batches")
    seen = seen if limit is None else min(seen, limit * values["data"]["batch_size_per_device"])
    training, attacking = values["trainer"]["max_epochs"] * seen * step, settings.num_images * passes * forward
    return Estimate(seen * step, START_SECONDS + training, START_SECONDS + attacking)


def plan_in_words(settings: Settings, known: dict[str, Estimate]) -> str:
    """A line a row and a sum, as an upper bound: what an attack has broken costs no more."""
    runs = settings.planned({})
    lines = [f"{'row':22}{'seeds':>6}{'epochs':>8}{'tuning':>12}{'training':>12}{'attacks':>12}   a seed, about"]
    total = longest = 0.0
    for name in settings.rows:
        own = [run for run in runs if run.row.name == name]
        tuning = sum(tuning_seconds(run, known[name]) for run in _to_tune(settings) if run.row.name == name)
        epochs = own[0].recipe.values()["trainer"]["max_epochs"]
        _, training, attacking = known[name]
        total += tuning + len(own) * (training + attacking)
        longest = max(longest, tuning / len(RATE_FACTORS) + training + attacking)
        times = "".join(f"{time_in_words(seconds):>12}" for seconds in (tuning, training, attacking))
        lines.append(f"{name:22}{len(own):6}{epochs:8}{times}")
    at_most = time_in_words(max(total / settings.jobs, longest))
    return "\n".join([*lines, f"in all at most {at_most}, {settings.jobs} rows at a time"])


def _to_tune(settings: Settings) -> list[Run]:
    return [] if settings.tuning_data is None else settings.to_tune()


def tuning_seconds(run: Run, known: Estimate) -> float:
    """Of one learning rate of a row."""
    return START_SECONDS + run.recipe.values()["trainer"]["max_epochs"] * known.epoch


def time_in_words(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
