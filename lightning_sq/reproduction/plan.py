"""How long a study takes on this machine, from a few steps that are timed now."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from lightning_sq.data.index import load_index
from lightning_sq.evaluation.suites import attacks_by_name
from lightning_sq.reproduction.recipes import Recipe, seconds_per_image
from lightning_sq.reproduction.runs import Run
from lightning_sq.reproduction.settings import Settings
from lightning_sq.reproduction.trials import RATE_FACTORS, rates_to_try, tuned_rates, variants

START_SECONDS = 25.0
"""What a command costs before it works, about: imports, and decoding the images."""


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
    runs = [run for run in settings.planned(tuned_rates(settings)) if settings.earlier.seed(run) is None]
    trials = [run for run in rates_to_try(settings) if settings.earlier.trial(run) is None]
    lines = [f"{'row':22}{'seeds':>6}{'epochs':>8}{'tuning':>12}{'training':>12}{'attacks':>12}   a seed, about"]
    total = longest = 0.0
    for name in settings.rows:
        own = [run for run in runs if run.row.name == name]
        tuning = sum(tuning_seconds(run, known[name]) for run in trials if run.row.name == name)
        epochs = settings.recipe(settings.study.row(name), 0, {}).values()["trainer"]["max_epochs"]
        _, training, attacking = known[name]
        total += tuning + len(own) * (training + attacking)
        longest = max(longest, tuning / len(RATE_FACTORS) + training + attacking)
        times = "".join(f"{time_in_words(seconds):>12}" for seconds in (tuning, training, attacking))
        lines.append(f"{name:22}{len(own):6}{epochs:8}{times}")
    at_most = time_in_words(max(total / settings.jobs, longest))
    return "\n".join([*lines, f"in all at most {at_most}, {settings.jobs} rows at a time"])


def tuning_seconds(run: Run, known: Estimate) -> float:
    """Of one learning rate of a row."""
    return START_SECONDS + run.recipe.values()["trainer"]["max_epochs"] * known.epoch


def time_in_words(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def seconds_of_variants(settings: Settings, progress: Callable[[int, int], None]) -> list[float]:
    """What each variant of the method takes, about, from a few steps that are timed now."""
    runs, seconds = [run for _, run in variants(settings)], []
    for done, run in enumerate(runs, start=1):
        seconds.append(estimate_of(settings, run.recipe).training)
        progress(done, len(runs))
    return seconds
