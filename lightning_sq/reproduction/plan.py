"""How long a study takes on this machine, from a few steps that are timed now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_sq.data.index import load_index
from lightning_sq.evaluation.suites import attacks_by_name
from lightning_sq.reproduction.recipes import Recipe, seconds_per_image
from lightning_sq.reproduction.runs import Run, Step, evaluation_step, training_step
from lightning_sq.reproduction.settings import Settings
from lightning_sq.reproduction.trials import tuned_rates, untried_rates, variants

START_SECONDS = 25.0
"""What a command costs before it works, about: imports, and decoding the images."""


class Estimate(NamedTuple):
    """Seconds that a row takes, about."""

    epoch: float
    attacking: float

    def of_training(self, recipe: Recipe) -> float:
        """For the epochs of a recipe of that row."""
        return START_SECONDS + recipe.num_epochs * self.epoch


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
    return Estimate(seen * step, START_SECONDS + settings.num_images * passes * forward)


def plan_in_words(settings: Settings, known: dict[str, Estimate], *, anew: bool = False) -> str:
    """What is left of each row and of all, as an upper bound: what an attack has broken costs no more.

    Args:
        settings: What is asked for.
        known: Row -> what it takes.
        anew: Whether all is done again.
    Raises: InputError if a run is there by another recipe.
    """
    runs, tuning_data = settings.missing(tuned_rates(settings)), settings.tuning_data or settings.data
    steps = [("tuning", run, _training(run, tuning_data, known)) for run in untried_rates(settings)]
    steps += [("training", run, _training(run, settings.data, known)) for run in runs]
    for run in runs:
        seconds = known[run.row.name].attacking
        steps.append(("attacks", run, evaluation_step(run, settings.attack_options(), [], seconds)))
    left = [(run.row.name, kind, step.estimate) for kind, run, step in steps if anew or step.is_left()]
    lines = [f"{'left of row':28}{'runs':>6}{'tuning':>15}{'training':>15}{'attacks':>15}"]
    for name in settings.rows:
        own = [(kind, seconds) for row, kind, seconds in left if row == name]
        times = (sum(seconds for kind, seconds in own if kind == which) for which in ("tuning", "training", "attacks"))
        num_runs = sum(kind == "attacks" for kind, _ in own)
        lines.append(f"{name:28}{num_runs:6}{''.join(f'{time_in_words(seconds):>15}' for seconds in times)}")
    seconds = [seconds for _, _, seconds in left]
    at_most = time_in_words(max([sum(seconds) / settings.jobs, *seconds]))
    return "\n".join([*lines, f"in all at most {at_most}, {settings.jobs} rows at a time"])


def _training(run: Run, data: Path, known: dict[str, Estimate]) -> Step:
    return training_step(run, data, known[run.row.name].of_training(run.recipe))


def time_in_words(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def seconds_of_variants(settings: Settings, progress: Callable[[int, int], None]) -> list[float]:
    """What each variant of the method takes, about, from a few steps that are timed now."""
    runs, seconds = [run for _, run in variants(settings)], []
    for done, run in enumerate(runs, start=1):
        seconds.append(estimate_of(settings, run.recipe).of_training(run.recipe))
        progress(done, len(runs))
    return seconds
